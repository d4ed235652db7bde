"""REINFORCE++ with baseline (arXiv 2501.03262, k > 1 samples): group mean off, then whitening; k2 KL apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from mappa.credit.base import Credited, Gather, group_key, group_rewards
from mappa.credit.reinforce_pp import ReinforcePP
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


class ReinforcePPBaseline(ReinforcePP):
    """A' = r - mean of its group (task, agent, turn), whitened like `ReinforcePP`; the KL is a separate k2 loss.

    Departures from the paper:
      1. a group is the same agent's same turn on the same task, since every action is an episode of its own;
      2. an action that is alone in its group has no baseline: it enters neither the loss nor the statistics.
    """

    def __init__(
        self,
        kl: NonNegativeFloat = 0.01,
        scope: Literal["agent", "team"] = "agent",
        normalize_by: Literal["stratum"] | None = None,
    ) -> None:
        """`kl`: coefficient of the k2 loss."""
        super().__init__(beta=0.0, scope=scope, normalize_by=normalize_by)
        self.kl_in_loss = kl

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        groups = group_rewards(samples, gather)

        def above(sample: Sample) -> float | None:
            if not sample.valid:
                return None
            group = groups[group_key(sample)]
            return None if group.count == 1 else sample.reward - group.mean

        return self._whitened(samples, [above(sample) for sample in samples], kl, gather)
