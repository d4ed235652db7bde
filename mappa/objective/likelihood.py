"""Likelihood: what a selection chose is learned by maximum likelihood (supervised finetuning on own answers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mappa.epoch import Collected
from mappa.learn.batch import at_loss
from mappa.learn.loss import likelihood_loss
from mappa.learn.rows import Row
from mappa.objective.base import BaseObjective, Prepared, Start
from mappa.reward.base import Reward, reward_metrics
from mappa.select.base import Selection
from mappa.types import Batch

if TYPE_CHECKING:
    from pydantic import PositiveFloat, PositiveInt


class Likelihood(BaseObjective):
    """`select=consensus`: Multiagent Finetuning (arXiv 2501.05707); `select=graded`: STaR (arXiv 2203.14465)."""

    def __init__(
        self,
        select: Selection,
        reward: Reward | None = None,
        passes: PositiveInt = 1,
        start: Literal["on", "fresh", "base"] = "fresh",
        learning_rate: PositiveFloat | None = None,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        """
        Args:
            select: which actions are learned, with what weight.
            reward: what episodes are rated by, for selections that look at it.
            passes: over the selected rows; must divide `data.updates_per_epoch`.
            start: what an epoch's updates start from; see `Start`.
            learning_rate: None = the module's.
            temperature: of the log-probabilities that are learned; 1 = the model as it is.
        """
        self.passes = passes
        self.start = Start(start)
        self.learning_rate = learning_rate
        self.temperature = temperature
        self._select, self._reward = select, reward

    def rows(self, made: Collected) -> Prepared:
        """This rank's chosen actions, each token with its action's weight. Collective."""
        ratings = self._reward.rate(made) if self._select.needs_ratings else {}
        chosen = self._select.choose(made, ratings)
        rows = [
            Row(
                choice.sample,
                torch.full((len(choice.action.completion_ids),), choice.weight),
            )
            for (choice,) in chosen.groups
        ]
        return Prepared(rows, chosen.metrics | reward_metrics(ratings, made))

    def size(self, rows: Sequence[Row]) -> float:
        """Tokens, each counted with its weight."""
        return sum(row.advantages.sum().item() for row in rows)

    def loss(
        self, logprobs_N: Tensor, entropy_N: Tensor, batch: Batch, size: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood, averaged over the weighted tokens of the optimizer step."""
        weights_N = at_loss(batch.advantages_BT, batch, logprobs_N.device)
        loss = likelihood_loss(logprobs_N, weights_N, size)
        values = {
            "tokens": torch.tensor(float(len(weights_N))),
            "loss": loss.detach(),
            "entropy": entropy_N.sum(),
            "nll": -logprobs_N.detach().sum(),
        }
        return loss, values
