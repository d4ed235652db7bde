"""GRPO (arXiv 2402.03300): the group's own mean and standard deviation, nothing over the batch; k3 KL apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mappa.credit.base import BaseCredit, Credited, Gather, group_key, group_rewards
from mappa.credit.reinforce_pp import returns
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


EPS = 1e-4
"""Added to standard deviations; rewards lie in [0, 1], so rounding noise of a constant reward is not blown up."""


class GRPO(BaseCredit):
    """A = (r - mean) / (std + eps) of the action's group (task, agent, turn): the same for all its tokens.

    Departures from the paper:
      1. the group is the same agent's same turn on the same task;
      2. tokens are averaged over the optimizer step, not first within each sequence (see `mappa.learn.loss`).
    """

    kl_estimator = "k3"

    def __init__(self, kl: NonNegativeFloat = 0.04) -> None:
        """`kl`: coefficient of the k3 loss (the paper's 0.04)."""
        self.kl_in_loss = kl

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        groups = group_rewards(samples, gather)

        def advantage(sample: Sample) -> Tensor:
            mean, std, _ = groups[group_key(sample)]
            return returns((sample.reward - mean) / (std + EPS), len(sample.action.completion_ids), None, 0.0)

        return Credited([advantage(sample) if sample.valid else None for sample in samples])
