"""The perfect judge of single actions for `task=relay_chain`: no model, no network, no answer key.

What was wrong already when it was handed over is not this seat's fault.
"""

from __future__ import annotations

from mappa.judge.base import BaseJudge, Evidence
from mappa.task.relay_chain import check
from mappa.types import Verdict


class RubricRelayJudge(BaseJudge):
    """10 for a step that is right given what was handed over, 0 for any other."""

    id = "rubric-relay-1"

    async def score(self, evidence: Evidence) -> Verdict:
        before = evidence.before[-1].text if evidence.before else None
        step = check(evidence.task.question, evidence.index, before, evidence.action.text)
        if step is None:
            return Verdict(0.0, "not of the form c+9 4=3", self.id)
        parts = {"its own line": step.own, "the digit handed over": step.handed, "the sum": step.total}
        wrong = [name for name, right in parts.items() if not right]
        return Verdict(0.0, f"wrong: {', '.join(wrong)}", self.id) if wrong else Verdict(10.0, "all right", self.id)
