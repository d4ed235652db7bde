"""Policy gradient: every action has an advantage of its own (credit), learned under the clipped loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mappa.credit.base import Credit
from mappa.epoch import Collected
from mappa.learn.batch import at_loss
from mappa.learn.loss import LossConfig, kl_penalty, policy_loss
from mappa.learn.rows import Row
from mappa.objective.base import BaseObjective, Prepared
from mappa.reward.base import Reward, reward_metrics
from mappa.search.base import Search
from mappa.types import Batch


class PolicyGradient(BaseObjective):
    """On-policy: one pass, at the temperature of the rollouts."""

    def __init__(
        self, credit: Credit, loss: LossConfig, reward: Reward | None = None, search: Search | None = None
    ) -> None:
        """
        Args:
            reward: of a whole episode, for all its actions, instead of the judge's scores.
            search: where attempts at a task branch off from one another; None = they are independent.
        """
        self._credit, self._config, self._reward = credit, loss, reward
        if search is not None:
            self.search, self.attempts = search, search.attempts

    def rows(self, made: Collected) -> Prepared:
        """All of this rank's samples -> those that credit has advantages for. Collective."""
        samples, ratings = made.samples(), {}
        if self._reward is not None:
            ratings = self._reward.rate(made)
            shared = {a.id: ratings[e.id].total for e in made.episodes if e.id in ratings for a in e.own}
            samples = [replace(sample, reward=shared.get(sample.action.id)) for sample in samples]
        valid = [sample for sample in samples if sample.valid]
        if made.version == 0:
            made.policies.check_engine(valid)
        needs_reference = self._credit.kl_in_reward > 0 or self._credit.kl_in_loss > 0
        old = made.policies.old(valid)
        ref = made.policies.base(valid) if needs_reference else [None] * len(valid)
        kl = {
            sample.action.id: (torch.tensor(sample.action.logprobs) if o is None else o) - r
            for sample, o, r in zip(valid, old, ref, strict=True)
            if r is not None
        }
        credited = self._credit.advantages(samples, [kl.get(s.action.id) for s in samples], made.gather)
        advantages = dict(zip((s.action.id for s in samples), credited.advantages, strict=True))
        in_loss = self._credit.kl_in_loss > 0
        rows = [
            Row(sample, advantages[sample.action.id], o, r if in_loss else None)
            for sample, o, r in zip(valid, old, ref, strict=True)
            if advantages[sample.action.id] is not None
        ]
        sizes = {row.sample.action.id: row.advantages.abs() for row in rows}
        return Prepared(rows, credited.metrics | reward_metrics(ratings, made), {"kl": kl, "advantage_abs": sizes})

    def size(self, rows: Sequence[Row]) -> float:
        """Tokens."""
        return sum(len(row.sample.action.completion_ids) for row in rows)

    def state_dict(self) -> dict[str, Any]:
        return {"credit": self._credit.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._credit.load_state_dict(state_dict["credit"])

    def loss(
        self, logprobs_N: Tensor, entropy_N: Tensor, batch: Batch, size: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped loss, and a KL term where the credit scheme has one of its own."""
        device = logprobs_N.device
        old_BT = batch.old_logprobs_BT
        old_N = logprobs_N.detach() if old_BT is None else at_loss(old_BT, batch, device)
        advantages_N, mask_N = at_loss(batch.advantages_BT, batch, device), at_loss(batch.loss_mask_BT, batch, device)
        engine_N = at_loss(batch.engine_logprobs_BT, batch, device)
        loss, values = policy_loss(logprobs_N, old_N, engine_N, advantages_N, mask_N, size, self._config)
        if self._credit.kl_in_loss > 0 and batch.ref_logprobs_BT is not None:
            ref_N = at_loss(batch.ref_logprobs_BT, batch, device)
            penalty = kl_penalty(logprobs_N, ref_N, mask_N, size, self._credit.kl_estimator)
            loss = loss + self._credit.kl_in_loss * penalty
            values["kl_penalty"] = penalty.detach() * size
        values["loss"] = loss.detach()
        values["entropy"] = entropy_N.sum()
        values["advantage"] = advantages_N.sum()
        return loss, values
