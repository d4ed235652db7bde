"""Shared final 0/1 reward: every action of an episode gets the episode's grade. The ablation baseline."""

from __future__ import annotations

from mappa.judge.base import BaseJudge, Evidence, When
from mappa.types import Verdict


class OutcomeJudge(BaseJudge):
    """10 x the task's own grade for all actions alike. It uses the ground truth, and places no blame."""

    when = When.EPISODE
    id = "outcome-1"

    async def score(self, evidence: Evidence) -> Verdict:
        grade = evidence.episode.grade if evidence.episode else None
        if grade is None:
            return Verdict(None, "the episode has no grade", self.id)
        return Verdict(10.0 * grade.score, grade.reason, self.id)
