"""Whose fault was it, and did the reward say so? By a check of single actions that is known to be right."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.held_out import HeldOutCallback
from mappa.judge.base import Evidence, Judge
from mappa.judge.wrapped import RIGHT
from mappa.report.credit import rho2
from mappa.types import Episode


class LensCallback(HeldOutCallback):
    """Each seat's own correctness on held-out problems, and what judge and outcome say of it in training.

    Stands after the judge in the list of callbacks. `results`: `right`, seat -> share of its actions.
    """

    prefix = "right"

    def __init__(self, check: Judge) -> None:
        """`check`: more than 5 of 10 is right; it is asked about every action, so it should cost nothing."""
        super().__init__()
        self._check = check
        self._seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)

    async def keep(self, episode: Episode) -> dict[str, float]:
        """Seat -> 1.0 or 0.0."""
        right = await self._right(episode)
        return {a.seat: right[a.id] for a in episode.actions if a.id in right}

    async def _right(self, episode: Episode) -> dict[str, float]:
        """Action -> 1.0 or 0.0; without those that the check cannot tell."""
        evidence = [Evidence(episode.task, episode.actions, i, episode) for i in range(len(episode.actions))]
        scores = {e.action.id: (await self._check.score(e)).score for e in evidence}
        return {action: float(score > RIGHT) for action, score in scores.items() if score is not None}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of the judged actions of all epochs so far, by agent. Collective."""
        data = trainer.datamodule
        episodes, verdicts = data.everyone()
        for episode in episodes:
            right = data.loop.run(self._right(episode)) if episode.grade is not None else {}
            for action in episode.own:
                verdict = verdicts.get(action.id)
                if action.id in right and verdict is not None and verdict.score is not None:
                    seen = (right[action.id], verdict.score, episode.grade.score)
                    self._seen[action.agent].append(seen)
        numbers = {f"judge/{agent}/{key}": value for agent, n in self.rewards().items() for key, value in n.items()}
        pl_module.log_dict({key: value for key, value in numbers.items() if value is not None}, on_epoch=True)

    def rewards(self) -> dict[str, dict[str, float | None]]:
        """Agent -> `right`, share of its actions; with it `rho2` of the judge's scores, `rho2_outcome` of grades."""
        found = {}
        for agent, seen in self._seen.items():
            right, scores, grades = zip(*seen, strict=True)
            found[agent] = {
                "right": statistics.fmean(right),
                "rho2": rho2(scores, right),
                "rho2_outcome": rho2(grades, right),
            }
        return found

    def measure(
        self, kept: Sequence[Mapping[str, float]], trainer: Trainer, module: LightningModule
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Of each seat the share of its actions that are right."""
        by_seat: dict[str, list[float]] = defaultdict(list)
        for right in kept:
            for seat, value in right.items():
                by_seat[seat].append(value)
        shares = {seat: statistics.fmean(values) for seat, values in sorted(by_seat.items())}
        return {"right": shares}, shares

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results, "seen": dict(self._seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = state_dict["results"]
        self._seen = defaultdict(list, state_dict["seen"])
