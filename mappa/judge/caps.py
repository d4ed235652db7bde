"""Caps on scores by the outcome, applied in code after any judge's word instead of being pleaded for in its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mappa.errors import ConfigError
from mappa.judge.base import Evidence
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
    less_is_better: bool = False

    def cap(self, value: float) -> float:
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

    def apply(self, verdict: Verdict, evidence: Evidence) -> Verdict:
        """The verdict, with its score lowered to the cap; as it is where there is no score or no such measure."""
        ladder = self._ladders.get(evidence.task.kind)
        grade = evidence.episode.grade if evidence.episode is not None else None
        if verdict.score is None or ladder is None or grade is None or evidence.action.agent not in self._agents:
            return verdict
        value = grade.metrics.get(ladder.measure)
        if value is None or verdict.score <= (highest := ladder.cap(value)):
            return verdict
        why = f"capped at {highest:g}: {ladder.measure} is {value:.3g}"
        return replace(verdict, score=highest, reason=f"{verdict.reason} [{why}]")
