"""Log-probabilities of what was sampled: under each agent's adapter, and under the frozen base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mappa.errors import EngineError
from mappa.learn.batch import collate, ordered
from mappa.learn.packing import Line, cut_micro_batches
from mappa.learn.rows import Row
from mappa.policy.attention import Packing, packing_of
from mappa.ranks import gather
from mappa.types import BASE, Batch, Sample

if TYPE_CHECKING:
    from mappa.policy.forward import Policy
    from mappa.policy.lora import Adapters


log = logging.getLogger(__name__)

FEW_ACTS, SAME = 4, 0.05
"""Acts that are looked at, and nats per token that rounding to bfloat16 may account for."""


class Old(StrEnum):
    """Where log pi_old of an epoch's actions comes from, with no second forward pass where there is no need of one."""

    NOT_NEEDED = "not_needed"
    OF_ENGINE = "of_engine"
    OF_TRAINER = "of_trainer"


class TeamPolicies:
    """The `Policies` of an objective. Every call is collective."""

    def __init__(
        self,
        policy: Policy,
        adapters: Adapters,
        pad_id: int,
        micro_batch_tokens: int,
        max_engine_gap: float,
        old: Callable[[], Old],
    ) -> None:
        """`old`: asked once an epoch. The others: see conf/train.yaml, module."""
        self._policy, self.adapters, self._pad_id = policy, adapters, pad_id
        self._micro_batch_tokens, self.max_engine_gap = micro_batch_tokens, max_engine_gap
        self._old = old
        self._packing = packing_of(adapters.base)
        self._trusted = False
        """Acts that shared a row said what they say alone."""

    def check_engine(self, samples: Sequence[Sample], count: int = 8) -> None:
        """Before the first update engine and trainer must agree on what was sampled: same temperature, same adapter.

        Raises:
            EngineError: their log-probabilities are further apart than `max_engine_gap` nats per token on average.
        """
        for agent in self.adapters.agents:
            mine = [sample for sample in samples if sample.action.agent == agent][:count]
            ours, theirs = self.now(mine), [torch.tensor(sample.action.logprobs) for sample in mine]
            gaps = [(a - b).abs().mean().item() for a, b in zip(ours, theirs, strict=True)]
            gap = sum(gaps) / len(gaps) if gaps else 0.0
            if gap > self.max_engine_gap:
                raise EngineError(
                    f"engine and trainer disagree about agent '{agent}' by {gap:.3f} nats per token before the first "
                    f"update (module.max_engine_gap={self.max_engine_gap}): check temperature, dtype and adapters"
                )

    @property
    def temperature(self) -> float:
        """Of the log-probabilities."""
        return self._policy.temperature

    def gaps(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        """Each agent, and the base -> action id -> nats per token between its log-probabilities and the engine's."""
        found = {}
        for voice in (*self.adapters.agents, BASE):
            ours = self.logprobs(samples, voice)
            pairs = [(s.action.id, o, torch.tensor(s.action.logprobs)) for s, o in zip(samples, ours, strict=True)]
            found[voice] = {key: (our - their).abs().mean().item() for key, our, their in pairs}
        return found

    def old(self, samples: Sequence[Sample]) -> list[Tensor | None]:
        """Log-probabilities before the first update, with no second forward where there is no need of one.

        None each when one update is taken (pi_old = pi_theta); the engine's own when it shares the trainer's weights.
        """
        old = self._old()
        if old is Old.NOT_NEEDED:
            return [None] * len(samples)
        if old is Old.OF_ENGINE:
            return [torch.tensor(sample.action.logprobs) for sample in samples]
        return self.now(samples)

    def now(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities of each sample under its own adapter."""
        return self.logprobs(samples)

    def base(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities of the frozen base with its adapters switched off; all agents share it."""
        return self.logprobs(samples, BASE)

    def logprobs(self, samples: Sequence[Sample], voice: str | None = None) -> list[Tensor]:
        """Log-probabilities of each sample's completion; float32 on the host.

        Args:
            voice: whose; None = each sample's own agent's.
        """
        rows = [Row(sample, torch.zeros(len(sample.action.completion_ids))) for sample in samples]
        micro = self.micro_batches(rows, voice)
        found: list[Tensor] = []
        with self._without_gradients(), self.adapters.evaluating():
            for index in range(max(gather(len(micro)))):
                part = micro[index] if index < len(micro) else []
                found.append(self._said(part, voice))
        order = [row for part in micro for row in ordered(part)]
        lengths = [len(row.sample.action.completion_ids) for row in order]
        values = torch.cat(found).cpu().split(lengths) if order else ()
        by_id = dict(zip((row.sample.action.id for row in order), values, strict=True))
        return [by_id[sample.action.id] for sample in samples]

    def micro_batches(self, rows: Sequence[Row], voice: str | None = None) -> list[list[Line]]:
        """Of this rank, cut as the model's attention allows; the first acts that share a row are looked at before.

        Args:
            voice: as in `logprobs`.
        """
        by_agent, mix = voice is None, self.adapters.mixes
        micro = cut_micro_batches(rows, self._micro_batch_tokens, by_agent, mix, self._packing)
        if self._packing is Packing.ALONE or self._trusted:
            return micro
        shared = next((line for part in micro for line in part if len(line) > 1), [])
        if not any(gather(bool(shared))):
            return micro
        few = sorted(shared[:FEW_ACTS], key=lambda act: act[0].agent)  # the order in which they are one by one
        gap = max(gather(self._gap(few, voice)))
        self._trusted = gap <= SAME
        if self._trusted:
            return micro
        self._packing = Packing.ALONE
        log.warning(
            "acts that share a row of the update are %.3f nats per token from what they are alone: this model's "
            "attention does not keep them apart, so each has a row of its own from here on, which takes longer",
            gap,
        )
        return cut_micro_batches(rows, self._micro_batch_tokens, by_agent, mix)

    def _gap(self, line: Line, voice: str | None) -> float:
        """Nats per token between acts in one row and in a row each. Collective."""
        with self._without_gradients(), self.adapters.evaluating():
            together = self._said([line] if line else [], voice)
            alone = self._said([[act] for act in line], voice)
        return (together - alone).abs().mean().item() if line else 0.0

    def _said(self, lines: Sequence[Line], voice: str | None) -> Tensor:
        """Log-probabilities of a micro-batch; a rank that has none takes part in the pass all the same."""
        return self.forward(collate(lines, self._pad_id, () if lines else self.adapters.agents[:1]), voice)[0]

    def _without_gradients(self) -> AbstractContextManager[None]:
        """Sharded weights are gathered into buffers that the update uses again: those must not be inference tensors."""
        sharded = hasattr(next(self.adapters.model.parameters()), "device_mesh")
        return torch.no_grad() if sharded else torch.inference_mode()

    def forward(self, batch: Batch, voice: str | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies at the batch's loss positions; see `Policy.forward`.

        Args:
            voice: as in `logprobs`.
        """
        speakers = batch.speakers if voice is None else ((voice, None),)
        self.adapters.select_rows(speakers)
        device = next(self.adapters.model.parameters()).device
        with self.adapters.precision():
            moved = [
                None if tensor is None else tensor.to(device, non_blocking=True)
                for tensor in (batch.input_ids_BT, batch.positions_BT, batch.ends_BT)
            ]
            return self._policy(moved[0], batch.loss_mask_BT, *moved[1:])
