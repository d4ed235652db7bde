"""The perfect judge for `task=relay_chain`: no model, no network, no answer key.

Of an action: what was wrong already when it was handed over is not this seat's fault. Of the state: how things stand.
"""

from __future__ import annotations

from typing import Literal

from mappa.judge.base import BaseJudge, Evidence
from mappa.task.relay_chain import check, last_digit, total
from mappa.types import Verdict


class RubricRelayJudge(BaseJudge):
    """10 for a step that is right given what was handed over, 0 for any other."""

    def __init__(self, sees: Literal["action", "state"] = "action") -> None:
        """`sees`: `state` gives 10 as long as the digit handed on is the true sum so far, whoever erred."""
        self.id = "rubric-relay-1" if sees == "action" else "rubric-relay-state-1"
        self._sees = sees

    async def score(self, evidence: Evidence) -> Verdict:
        if self._sees == "state":
            said, true = last_digit(evidence.action.text), total(evidence.task.question, evidence.index + 1)
            return Verdict(10.0 * (said == true), f"handed on {said}, the sum so far is {true}", self.id)
        before = evidence.before[-1].text if evidence.before else None
        step = check(evidence.task.question, evidence.index, before, evidence.action.text)
        if step is None:
            return Verdict(0.0, "not of the form c+9 4=3", self.id)
        parts = {"its own line": step.own, "the digit handed over": step.handed, "the sum": step.total}
        wrong = [name for name, right in parts.items() if not right]
        return Verdict(0.0, f"wrong: {', '.join(wrong)}", self.id) if wrong else Verdict(10.0, "all right", self.id)
