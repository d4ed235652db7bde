"""Role-conditioned advantage estimation (SPIRAL, arXiv 2506.24119): reward minus a moving average of the role's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor

from mappa.credit.base import BaseCredit, Credited, Gather, group_rewards
from mappa.credit.reinforce_pp import returns
from mappa.types import Sample

if TYPE_CHECKING:
    from annotated_types import Ge, Lt
    from pydantic import NonNegativeFloat


class RAE(BaseCredit):
    """A = r - b of the seat, b <- decay * b + (1 - decay) * r after each action; no whitening.

    Departures from the paper:
      1. the actions of an epoch enter b at once, n of them with decay ** n and their mean, so that their order, and
         which rank they are on, do not matter;
      2. b begins as the first epoch's mean, not as 0, which would call all first actions good;
      3. the k1 KL penalty is inside the reward, as in `reinforce_pp`; b is of the rewards alone.
    """

    def __init__(self, decay: Annotated[float, Ge(0), Lt(1)] = 0.95, beta: NonNegativeFloat = 0.01) -> None:
        """`beta`: weight of the KL."""
        self.kl_in_reward = beta
        self._decay = decay
        self._baselines: dict[str, float] = {}

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        for seat, (mean, _, count) in sorted(group_rewards(samples, gather, lambda s: s.action.seat).items()):
            kept = self._decay**count
            self._baselines[seat] = kept * self._baselines.get(seat, mean) + (1 - kept) * mean
        return Credited(
            [
                returns(s.reward - self._baselines[s.action.seat], len(s.action.completion_ids), k, self.kl_in_reward)
                if s.valid
                else None
                for s, k in zip(samples, kl, strict=True)
            ],
            {f"baseline/{seat}": value for seat, value in self._baselines.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        return dict(self._baselines)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._baselines = dict(state_dict)
