"""Judges around another one: with known faults (`judge=noisy`), or mixed with the outcome (`judge=mixed`)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from mappa.judge.base import Evidence, Judge, When
from mappa.seed import stable_seed
from mappa.types import Verdict

if TYPE_CHECKING:
    from annotated_types import Ge, Le

    Share = Annotated[float, Ge(0), Le(1)]

RIGHT = 5.0
"""Scores above this say that the action is right."""


class WrappedJudge:
    """The other judge's life; a subclass says what becomes of its verdicts."""

    def __init__(self, judge: Judge, id: str, when: When) -> None:
        self._judge, self.id, self.when = judge, f"{id}({judge.id})", when

    @property
    def fatal(self) -> str | None:
        return self._judge.fatal

    async def start(self) -> None:
        await self._judge.start()

    async def announce(self, actions: int) -> None:
        await self._judge.announce(actions)

    async def totals(self) -> dict[str, float]:
        return await self._judge.totals()

    async def flush(self) -> None:
        await self._judge.flush()

    async def close(self) -> None:
        await self._judge.close()


class NoisyJudge(WrappedJudge):
    """How good has a judge to be? The same faults for the same action of the same run, whatever else is scored."""

    def __init__(
        self,
        judge: Judge,
        false_alarm: Share = 0.0,
        miss: Share = 0.0,
        dropout: Share = 0.0,
        floor: Annotated[float, Ge(0), Le(10)] = 0.0,
        bias: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Faults are applied in this order.

        Args:
            dropout: share of the actions that are left without a verdict.
            false_alarm: share of the actions called right (more than 5 of 10) whose score is mirrored, 10 - score.
            miss: the same of all others. Equal to `false_alarm`: symmetric flips.
            bias: seat or kind of task -> points added.
            floor: points that a saturated judge gives at least.
        """
        shares = {"dropout": dropout, "false_alarm": false_alarm, "miss": miss}
        faults = shares | {"bias": dict(bias or {}), "floor": floor, "seed": seed}
        said = ",".join(f"{name}={value}" for name, value in faults.items() if value)
        super().__init__(judge, f"noisy[{said}]", judge.when)
        self._alarm, self._miss, self._dropout, self._floor = false_alarm, miss, dropout, floor
        self._bias, self._seed = dict(bias or {}), seed

    async def score(self, evidence: Evidence) -> Verdict:
        action = evidence.action
        rng = random.Random(stable_seed(self._seed, "noise", action.id, action.text))
        dropped, turned = rng.random() < self._dropout, rng.random()
        verdict = await self._judge.score(evidence)
        if verdict.score is None or dropped:
            return replace(verdict, score=None, judge=self.id)
        score = verdict.score
        if turned < (self._alarm if score > RIGHT else self._miss):
            score = 10.0 - score
        score += self._bias.get(action.seat, 0.0) + self._bias.get(evidence.task.kind, 0.0)
        return replace(verdict, score=min(10.0, max(self._floor, score)), judge=self.id)


class MixedJudge(WrappedJudge):
    """weight * score + (1 - weight) * 10 * grade: the judge's word and the outcome. Uses the ground truth."""

    def __init__(self, judge: Judge, weight: Share = 0.5) -> None:
        super().__init__(judge, f"mixed[{weight}]", When.EPISODE)
        self._weight = weight

    async def score(self, evidence: Evidence) -> Verdict:
        verdict = await self._judge.score(evidence)
        grade = evidence.episode.grade if evidence.episode is not None else None
        if verdict.score is None or grade is None:
            reason = verdict.reason if verdict.score is None else "the episode has no grade"
            return replace(verdict, score=None, reason=reason, judge=self.id)
        score = self._weight * verdict.score + (1.0 - self._weight) * 10.0 * grade.score
        return replace(verdict, score=score, judge=self.id)
