"""REINFORCE++ with baseline (arXiv 2501.03262, k > 1 samples): group mean off, then whitening; k2 KL apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from mappa.credit.base import Credited, Gather, group_key, group_rewards
from mappa.credit.reinforce_pp import ReinforcePP, returns, whiten
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


class ReinforcePPBaseline(ReinforcePP):
    """A' = r - mean of its group (task, agent, turn), whitened like `ReinforcePP`; the KL is a separate k2 loss.

    Departure: a group is the same agent's same turn on the same task, since every action is an episode of its own.
    An action without any alternative gets A' = 0 before whitening.
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
        raw = [
            returns(s.reward - groups[group_key(s)][0], len(s.action.completion_ids), None, 0.0) if s.valid else None
            for s in samples
        ]
        return Credited(whiten([self._key(sample) for sample in samples], raw, gather))
