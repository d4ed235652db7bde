"""The best-rated attempts are learned whole (Optima's iSFT, arXiv 2410.08115)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.reward.base import Rating
from mappa.search.base import distance
from mappa.select.base import Choice, Chosen, purity
from mappa.types import BASE, Episode

if TYPE_CHECKING:
    from annotated_types import Ge, Gt, Le
    from pydantic import PositiveInt

    from mappa.task.base import TaskSet


@dataclass(frozen=True)
class _Attempt:
    task: str
    episode: str
    total: float
    text: str


class Top:
    """The best attempts at each task that pass the threshold; of all tasks' the best share.

    Every action of a chosen episode is learned. One with an error, or with a truncated action, is passed over.
    """

    group = 1
    needs_ratings = True

    def __init__(
        self,
        per_task: PositiveInt = 1,
        share: Annotated[float, Gt(0), Le(1)] = 0.7,
        threshold: float = 0.5,
        threshold_on: Literal["total", "task"] = "total",
        band: tuple[float, float] | None = None,
        distinct: Annotated[float, Ge(0), Le(1)] | None = None,
    ) -> None:
        """
        Args:
            per_task: attempts at a task.
            share: of all chosen attempts, by total; rounded down, at least one.
            threshold: which a rating has to exceed.
            threshold_on: the total (the authors' code), or its part `task` (the paper).
            band: instead of the best share, the ranks from the first to the second share of all, e.g. [0.1, 0.8].
            distinct: relative edit distance that attempts at the same task must keep from those taken before.
        """
        if band is not None and not 0 <= band[0] < band[1] <= 1:
            raise ConfigError(f"select.band={list(band)} must be two shares between 0 and 1, the lower one first")
        self._per_task, self._threshold, self._threshold_on = per_task, threshold, threshold_on
        self._band = (0.0, share) if band is None else tuple(band)
        self._distinct = distinct

    def check(self, seats: Mapping[str, str], task_set: TaskSet) -> None:
        """Any team will do."""

    def choose(self, made: Collected, ratings: Mapping[str, Rating]) -> Chosen:
        mine = [self._attempt(e, ratings[e.id]) for e in made.episodes if self._passes(e, ratings)]
        everyone = [attempt for part in made.gather(mine) for attempt in part]
        kept = {attempt.episode for attempt in self._best(everyone)}
        found = {a.id: (a, e.task) for e in made.episodes if e.id in kept for a in e.actions if a.agent != BASE}
        groups = [(Choice(action, task),) for action, task in found.values()]
        played = sum(made.gather(len(made.episodes)))
        metrics = {"select/kept_episodes": len(kept) / max(1, played), "select/passed": len(everyone) / max(1, played)}
        return Chosen(groups, metrics | purity([group[0] for group in groups], made, graded=False))

    def _passes(self, episode: Episode, ratings: Mapping[str, Rating]) -> bool:
        rating = ratings.get(episode.id)
        if rating is None or any(action.truncated for action in episode.actions):
            return False
        return (rating.total if self._threshold_on == "total" else rating.parts["task"]) > self._threshold

    def _attempt(self, episode: Episode, rating: Rating) -> _Attempt:
        said = "\n".join(action.text for action in episode.actions) if self._distinct is not None else ""
        return _Attempt(episode.task.id, episode.id, rating.total, said)

    def _best(self, attempts: Sequence[_Attempt]) -> list[_Attempt]:
        """The same on every rank; ties go by episode id."""
        by_task: dict[str, list[_Attempt]] = defaultdict(list)
        for attempt in sorted(attempts, key=lambda a: (-a.total, a.episode)):
            taken = by_task[attempt.task]
            near = self._distinct is not None and any(distance(attempt.text, a.text) < self._distinct for a in taken)
            if len(taken) < self._per_task and not near:
                taken.append(attempt)
        ordered = sorted((a for taken in by_task.values() for a in taken), key=lambda a: (-a.total, a.episode))
        low, high = (int(share * len(ordered)) for share in self._band)
        return ordered[low : max(high, low + 1)]
