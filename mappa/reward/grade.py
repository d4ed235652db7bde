"""The task's own grade is the rating."""

from __future__ import annotations

from mappa.epoch import Collected
from mappa.reward.base import Rating, finished


class GradeReward:
    """0-1; uses the ground truth."""

    def rate(self, made: Collected) -> dict[str, Rating]:
        return {e.id: Rating(e.grade.score, {"task": e.grade.score}) for e in finished(made)}
