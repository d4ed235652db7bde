"""Right answers by the task's key: STaR (arXiv 2203.14465)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.ranks import added
from mappa.reward.base import Rating
from mappa.select.base import Choice, Chosen, is_right, purity
from mappa.types import BASE, Action, Episode

if TYPE_CHECKING:
    from mappa.task.base import TaskSet


class Graded:
    """Of each episode and seat the first right answer: without a hint if there is one, else one that a hint led to.

    It uses the ground truth. What was said under a hint is learned under the plain prompt (`Action.plain_ids`).
    """

    group = 1
    needs_ratings = False

    def check(self, seats: Mapping[str, str], task_set: TaskSet) -> None:
        if any(task.answer is None for task in task_set.train()):
            raise ConfigError(
                "select=graded needs tasks with answers, which this task set has not; use select=consensus"
            )

    def choose(self, made: Collected, ratings: Mapping[str, Rating]) -> Chosen:
        choices = [
            Choice(action, episode.task)
            for episode in made.episodes
            for seat in dict.fromkeys(action.seat for action in episode.actions)
            if (action := self._first_right(episode, seat, made.task_set)) is not None
        ]
        hinted = sum(choice.action.plain_ids is not None for choice in choices)
        counts = added({"hinted": hinted, "kept": len(choices)}, made.gather)
        metrics = purity(choices, made) | {"select/hinted": counts["hinted"] / max(1, counts["kept"])}
        return Chosen([(choice,) for choice in choices], metrics)

    def _first_right(self, episode: Episode, seat: str, task_set: TaskSet) -> Action | None:
        mine = [a for a in episode.actions if a.seat == seat and a.agent != BASE and not a.truncated]
        ordered = sorted(mine, key=lambda action: action.plain_ids is not None)
        return next((action for action in ordered if is_right(action, episode.task, task_set)), None)
