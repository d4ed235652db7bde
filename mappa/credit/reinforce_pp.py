"""REINFORCE++ (arXiv 2501.03262): k1 KL inside the reward, no critic, whitening per agent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mappa.credit.base import BaseCredit, Credited, Gather, moments
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


LEAST_SPREAD = 0.05
"""Of rewards in [0, 1]: half a point of the judge's ten is no reason for a full-size update."""
ROUNDING = 1e-6
"""Rewards whose standard deviation is below this are equal."""


class ReinforcePP(BaseCredit):
    """Advantage of MAPPA (arXiv 2601.23228) over the plain REINFORCE++ estimator.

    Departures from REINFORCE++:
      1. every action is an episode of its own, with its own reward; nothing flows between actions or agents;
      2. whitening is per agent (`scope: team` pools them, as one policy would), optionally per task stratum too;
      3. advantages are divided by the standard deviation of the rewards alone, and by no less than `LEAST_SPREAD`;
         where rewards do not differ there is nothing to learn: advantages are 0, and not the whitened KL.
    """

    def __init__(
        self,
        beta: NonNegativeFloat = 0.01,
        scope: Literal["agent", "team"] = "agent",
        normalize_by: Literal["stratum"] | None = None,
    ) -> None:
        """`beta`: weight of the KL. `scope`: whiten per agent or over the team; `normalize_by`: and per task kind."""
        self.kl_in_reward = beta
        self._scope = scope
        self._normalize_by = normalize_by

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        return self._whitened(samples, [s.reward if s.valid else None for s in samples], kl, gather)

    def _whitened(
        self,
        samples: Sequence[Sample],
        rewards: Sequence[float | None],
        kl: Sequence[Tensor | None],
        gather: Gather,
    ) -> Credited:
        """`rewards`: of each sample; None where it is not learned from."""
        raw = [
            None if r is None else returns(r, len(s.action.completion_ids), k, self.kl_in_reward)
            for s, r, k in zip(samples, rewards, kl, strict=True)
        ]
        return Credited(whiten([self._key(sample) for sample in samples], raw, rewards, gather))

    def _key(self, sample: Sample) -> Hashable:
        agent = sample.action.agent if self._scope == "agent" else "team"
        return (agent, sample.kind if self._normalize_by == "stratum" else "")


def returns(reward: float, length: int, kl_T: Tensor | None, beta: float) -> Tensor:
    """A_t = r - beta * sum_{i >= t} kappa_i, shape (length,): eqs. 8-9 of REINFORCE++ with gamma = 1 and no critic."""
    value_T = torch.full((length,), reward, dtype=torch.float32)
    if kl_T is None or beta == 0:
        return value_T
    return value_T - beta * kl_T.flip(0).cumsum(0).flip(0)


def whiten(
    keys: Sequence[Hashable], raw: Sequence[Tensor | None], rewards: Sequence[float | None], gather: Gather
) -> list[Tensor | None]:
    """(A - mean) / spread over all valid tokens of each key, token-weighted: eq. 10 of REINFORCE++ with departure 3.

    Args:
        raw: A; None where a sample is not learned from.
        rewards: A without its KL; not looked at where `raw` is None.
    """
    values = [(("raw", key), v) for key, v in zip(keys, raw, strict=True) if v is not None]
    values += [
        (("reward", key), torch.full_like(v, r)) for key, v, r in zip(keys, raw, rewards, strict=True) if v is not None
    ]
    stats = moments(values, gather)

    def scale(key: Hashable, value_T: Tensor) -> Tensor:
        spread = stats["reward", key].std
        if spread < ROUNDING:
            return torch.zeros_like(value_T)
        return (value_T - stats["raw", key].mean) / max(spread, LEAST_SPREAD)

    return [None if v is None else scale(key, v) for key, v in zip(keys, raw, strict=True)]
