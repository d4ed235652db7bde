"""What every reward offers: episodes -> ratings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mappa.epoch import Collected
from mappa.ranks import added
from mappa.types import BASE, Episode


@dataclass(frozen=True)
class Rating:
    """The reward of one whole episode."""

    total: float
    parts: Mapping[str, float]
    """What it is made of, and what it was made from; logged as `reward/<part>`."""


class Reward(Protocol):
    def rate(self, made: Collected) -> dict[str, Rating]:
        """Episode id -> rating, of this rank's episodes; one that ended in an error has none. Collective."""


def spent(episode: Episode) -> int:
    """Completion tokens of a whole episode, of all seats but the frozen base's."""
    return sum(len(action.completion_ids) for action in episode.actions if action.agent != BASE)


def finished(made: Collected) -> list[Episode]:
    """This rank's episodes without an error."""
    return [episode for episode in made.episodes if episode.error is None and episode.grade is not None]


def reward_metrics(ratings: Mapping[str, Rating], made: Collected) -> dict[str, float]:
    """`reward/total` and `reward/<part>`, means over all ranks' rated episodes. Collective."""
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for rating in ratings.values():
        numbers = {"total": rating.total, **rating.parts}
        sums.update(numbers)
        counts.update(numbers.keys())
    sums, counts = added(sums, made.gather), added(counts, made.gather)
    return {f"reward/{name}": total / counts[name] for name, total in sorted(sums.items())}
