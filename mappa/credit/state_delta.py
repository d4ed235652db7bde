"""Judges who score how things stand: an action is worth what it changed, and a share of what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from mappa.credit.base import Credited, Gather
from mappa.credit.reinforce_pp import ReinforcePP
from mappa.types import Sample

if TYPE_CHECKING:
    from annotated_types import Ge, Le
    from pydantic import NonNegativeFloat

    Share = Annotated[float, Ge(0), Le(1)]


class StateDelta(ReinforcePP):
    """r_k = sum over d >= 0 of gamma^d (V_{k+d} - V_{k+d-1}), V_k the score of the state after action k of the episode.

    The difference of potentials of Ng, Harada and Russell (1999), smeared back: with gamma 0 an action is credited with
    its own change alone, with gamma 1 with all that was won or lost from it on. Then whitened as in `reinforce_pp`. A
    state without a verdict is passed over. For judges who score states, e.g. `judge=rubric_relay judge.sees=state`.
    """

    def __init__(self, gamma: Share = 0.5, start: Share = 1.0, beta: NonNegativeFloat = 0.01) -> None:
        """`start`: V before the first action, 0-1. `beta`: weight of the KL."""
        super().__init__(beta)
        self._gamma, self._start = gamma, start

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        changed = self._changes(samples)
        rewards = [changed.get(sample.action.id) for sample in samples]
        return self._whitened(samples, rewards, kl, gather)

    def _changes(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Action -> its reward; of those that are learned from."""
        episodes: dict[str, list[tuple[int, Sample]]] = defaultdict(list)
        for sample in samples:
            if sample.valid:
                episode, _, index = sample.action.id.rpartition("/")
                episodes[episode].append((int(index), sample))
        found = {}
        for numbered in episodes.values():
            states = [sample for _, sample in sorted(numbered, key=lambda pair: pair[0])]
            before = [self._start, *(sample.reward for sample in states[:-1])]
            later = 0.0
            for sample, value in zip(reversed(states), reversed(before), strict=True):
                later = sample.reward - value + self._gamma * later
                found[sample.action.id] = later
        return found
