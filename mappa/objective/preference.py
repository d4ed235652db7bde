"""Preference: of two actions in the same place the better one is made likelier (DPO), and learned (RPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mappa.epoch import Collected
from mappa.learn.batch import at_loss
from mappa.learn.loss import preference_loss
from mappa.learn.rows import Row
from mappa.objective.base import BaseObjective, Prepared, Start
from mappa.reward.base import Reward, reward_metrics
from mappa.search.base import Search
from mappa.select.base import Selection
from mappa.types import Batch

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt


class Preference(BaseObjective):
    """DPO (arXiv 2305.18290) with a likelihood term on the chosen action (RPO, arXiv 2404.19733), as Optima's iDPO."""

    def __init__(
        self,
        select: Selection,
        reward: Reward,
        search: Search | None = None,
        beta: PositiveFloat = 0.1,
        alpha: NonNegativeFloat = 1.0,
        reference: Literal["now", "base"] = "now",
        passes: PositiveInt = 1,
        start: Literal["on", "fresh", "base"] = "fresh",
        learning_rate: PositiveFloat | None = None,
    ) -> None:
        """
        Args:
            select: which pairs are learned.
            reward: what attempts are rated by.
            search: how attempts at a task branch off from one another; None = `data.samples_per_task` independent ones.
            beta: how sharply preferences are learned, per nat.
            alpha: weight of the chosen action's mean negative log-likelihood; 0 = plain DPO.
            reference: the adapters as the epoch begins, or the frozen base.
            passes, start, learning_rate: as in `Likelihood`.
        """
        self.passes, self.start, self.learning_rate, self.temperature = passes, Start(start), learning_rate, 1.0
        self.search = search
        self.attempts = None if search is None else search.attempts
        self._select, self._reward = select, reward
        self._beta, self._alpha, self._reference = beta, alpha, reference

    def rows(self, made: Collected) -> Prepared:
        """This rank's pairs, the chosen action's tokens with +1, the rejected one's with -1. Collective."""
        ratings = self._reward.rate(made)
        chosen = self._select.choose(made, ratings)
        choices = [choice for group in chosen.groups for choice in group]
        samples = [choice.sample for choice in choices]
        reference = made.policies.now(samples) if self._reference == "now" else made.policies.base(samples)
        rows = [
            Row(
                sample,
                torch.full((len(sample.action.completion_ids),), choice.weight),
                ref_logprobs=ref,
                group=f"{choices[index - index % 2].action.id}>{choices[index - index % 2 + 1].action.id}",
            )
            for index, (sample, choice, ref) in enumerate(zip(samples, choices, reference, strict=True))
        ]
        return Prepared(rows, chosen.metrics | reward_metrics(ratings, made))

    def size(self, rows: Sequence[Row]) -> float:
        """Pairs."""
        return len(rows) / 2

    def loss(
        self, logprobs_N: Tensor, entropy_N: Tensor, batch: Batch, size: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The actions of a pair stand next to each other, the chosen one first."""
        device = logprobs_N.device
        tokens = torch.tensor(float(len(logprobs_N)))
        if batch.ref_logprobs_BT is None or not len(logprobs_N):
            loss = logprobs_N.sum() * 0.0
            return loss, {"tokens": tokens, "loss": loss.detach()}
        row_N = torch.arange(len(batch.sizes)).repeat_interleave(torch.tensor(batch.sizes))
        ref_N = at_loss(batch.ref_logprobs_BT, batch, device)
        loss, values = preference_loss(logprobs_N, ref_N, row_N, size, self._beta, self._alpha)
        # metrics are divided by the step's tokens: a pair's count once for each of its tokens
        per_pair = tokens / (len(batch.sizes) / 2)
        values = {key: value * per_pair for key, value in values.items()}
        return loss, values | {"tokens": tokens, "loss": loss.detach(), "entropy": entropy_N.sum()}
