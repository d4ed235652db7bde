"""Policy gradient: every action has an advantage of its own (credit), learned under the clipped loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mappa.credit.base import Credit
from mappa.learn.batch import Row
from mappa.learn.loss import LossConfig, kl_penalty, policy_loss
from mappa.ranks import gather
from mappa.types import Batch, Sample


class Policies(Protocol):
    """Log-probabilities (natural log, float32, on the host) of what was sampled. Every call is collective."""

    def now(self, samples: Sequence[Sample]) -> list[Tensor | None]:
        """Under each sample's own adapter before the epoch's first update; None each where one update is taken."""

    def base(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Under the frozen base, adapters off: the reference policy."""


@dataclass(frozen=True)
class Prepared:
    """One rank's part of an epoch, ready to be learned."""

    rows: list[Row]
    kl: dict[str, Tensor]
    """Action id -> log pi_old - log pi_ref of each of its tokens, nats; empty where no reference is needed."""
    metrics: dict[str, float]


class PolicyGradient:
    """Rows once an epoch, then the loss of each micro-batch."""

    def __init__(self, credit: Credit, loss: LossConfig) -> None:
        self._credit, self._config = credit, loss

    def rows(self, samples: Sequence[Sample], policies: Policies) -> Prepared:
        """All of this rank's samples -> the valid ones with their advantages. Collective."""
        valid = [sample for sample in samples if sample.valid]
        needs_reference = self._credit.kl_in_reward > 0 or self._credit.kl_in_loss > 0
        old = policies.now(valid)
        ref = policies.base(valid) if needs_reference else [None] * len(valid)
        kl = {
            sample.action.id: (torch.tensor(sample.action.logprobs) if o is None else o) - r
            for sample, o, r in zip(valid, old, ref, strict=True)
            if r is not None
        }
        credited = self._credit.advantages(samples, [kl.get(s.action.id) for s in samples], gather)
        advantages = dict(zip((s.action.id for s in samples), credited.advantages, strict=True))
        in_loss = self._credit.kl_in_loss > 0
        rows = [
            Row(sample, advantages[sample.action.id], o, r if in_loss else None)
            for sample, o, r in zip(valid, old, ref, strict=True)
        ]
        return Prepared(rows, kl, credited.metrics)

    def loss(
        self, logprobs_N: Tensor, entropy_N: Tensor, batch: Batch, tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, and sums over its loss tokens for the metrics.

        Args:
            tokens: of the agent's whole optimizer step, over all micro-batches and ranks.
        """

        def at_loss(values_BT: Tensor) -> Tensor:
            return values_BT[:, 1:][batch.loss_mask_BT[:, 1:] != 0].to(logprobs_N.device)

        old_N = logprobs_N.detach() if batch.old_logprobs_BT is None else at_loss(batch.old_logprobs_BT)
        advantages_N, mask_N = at_loss(batch.advantages_BT), at_loss(batch.loss_mask_BT)
        engine_N = at_loss(batch.engine_logprobs_BT)
        loss, values = policy_loss(logprobs_N, old_N, engine_N, advantages_N, mask_N, tokens, self._config)
        if self._credit.kl_in_loss > 0 and batch.ref_logprobs_BT is not None:
            penalty = kl_penalty(logprobs_N, at_loss(batch.ref_logprobs_BT), mask_N, tokens, self._credit.kl_estimator)
            loss = loss + self._credit.kl_in_loss * penalty
            values["kl_penalty"] = penalty.detach() * tokens
        values["loss"] = loss.detach()
        values["entropy"] = entropy_N.sum()
        values["advantage"] = advantages_N.sum()
        return loss, values
