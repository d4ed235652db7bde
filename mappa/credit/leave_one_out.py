"""Alternatives at one decision, all before it replayed: reward minus the mean of the others (arXiv 2603.06859)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mappa.credit.base import BaseCredit, Credited, Gather, group_rewards
from mappa.credit.reinforce_pp import returns
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


class LeaveOneOut(BaseCredit):
    """A_i = r_i - mean of r_j, j != i, over actions that the same agent sampled from the very same context.

    With `objective=counterfactual` every decision of an episode is tried again from where it stood; with independent
    attempts only first actions have alternatives (RLOO, arXiv 2402.14740). An action without one is not learned from.

    Departures from C3 (arXiv 2603.06859):
      1. what follows an alternative is sampled anew, not replayed;
      2. the k1 KL penalty is inside the reward, as in `reinforce_pp`.
    """

    def __init__(self, beta: NonNegativeFloat = 0.01) -> None:
        """`beta`: weight of the KL."""
        self.kl_in_reward = beta

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        groups = group_rewards(samples, gather, _decision)
        found: list[Tensor | None] = []
        for sample, penalty in zip(samples, kl, strict=True):
            mean, _, count = groups[_decision(sample)] if sample.valid else (0.0, 0.0, 1)
            if count == 1:
                found.append(None)
                continue
            advantage = (sample.reward - mean) * count / (count - 1)
            found.append(returns(advantage, len(sample.action.completion_ids), penalty, self.kl_in_reward))
        tried = sum(group.count for group in groups.values())
        alone = sum(group.count == 1 for group in groups.values())
        return Credited(found, {"credit/without_alternative": alone / tried} if tried else {})


def _decision(sample: Sample) -> Hashable:
    return (sample.task_id, sample.action.agent, sample.action.prompt_ids)
