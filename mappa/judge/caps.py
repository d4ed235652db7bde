"""Caps on scores by the outcome, applied in code after any judge's word instead of being pleaded for in its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mappa.errors import ConfigError
from mappa.judge.base import Evidence, Judge, When
from mappa.types import Verdict


@dataclass(frozen=True)
class Ladder:
    """Highest scores by one measure of the task's own grade."""

    measure: str
    """Name in the grade's metrics, e.g. `accuracy`."""
    steps: Sequence[Sequence[float]]
    """(bound, highest score), from the best outcome to the worst: the first bound that is reached counts."""
    below: float
    """Highest score where none is reached."""
    failed: float
    """Highest score where the outcome has no such measure: the team's work could not be graded."""
    less_is_better: bool = False

    def cap(self, value: float | None) -> float:
        if value is None:
            return self.failed
        for bound, highest in self.steps:
            if value <= bound if self.less_is_better else value >= bound:
                return highest
        return self.below


class OutcomeCaps:
    """A poor outcome caps the scores of the agents that could have done better. Needs judges with `when: episode`."""

    def __init__(self, agents: Sequence[str], ladders: Mapping[str, Ladder]) -> None:
        """`agents`: whose scores are capped. `ladders`: kind of task -> its ladder."""
        if not agents or not ladders:
            raise ConfigError("judge caps need agents and ladders")
        self._agents = tuple(agents)
        self._ladders = dict(ladders)

    def check(self, judge: Judge) -> None:
        """Raise `ConfigError` for a judge that scores actions before there is an outcome."""
        if judge.when is not When.EPISODE:
            raise ConfigError("callbacks.judge.caps look at the outcome: they need a judge with when=episode")

    def apply(self, verdict: Verdict, evidence: Evidence) -> Verdict:
        """The verdict, with its score lowered to the cap; as it is where there is no score or no outcome yet."""
        ladder = self._ladders.get(evidence.task.kind)
        if verdict.score is None or ladder is None or evidence.episode is None:
            return verdict
        if evidence.action.seat not in self._agents:
            return verdict
        grade = evidence.episode.grade
        value = grade.metrics.get(ladder.measure) if grade is not None else None
        if verdict.score <= (highest := ladder.cap(value)):
            return verdict
        said = "the team failed" if value is None else f"{ladder.measure} is {value:.3g}"
        why = f"capped at {highest:g}: {said}"
        return replace(verdict, score=highest, reason=f"{verdict.reason} [{why}]")
