"""Scores actions while others still generate; the epoch's updates wait for the last verdict."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated

import numpy as np
from lightning import Callback, LightningModule, Trainer

from mappa.epoch import save_and_stop
from mappa.errors import JudgeError
from mappa.judge.base import Evidence, Judge, When
from mappa.judge.caps import OutcomeCaps
from mappa.play.rollout import Listener, learned_actions
from mappa.ranks import gather, world
from mappa.report.audit import file_of
from mappa.report.health import (
    drift,
    judge_metrics,
    mean_grade,
    score_counts,
    scores_by_agent,
    unjudged_line,
    warnings,
)
from mappa.types import BASE, Action, Episode, Task

if TYPE_CHECKING:
    from annotated_types import Ge, Le
    from pydantic import NonNegativeFloat

log = logging.getLogger(__name__)


class JudgeCallback(Callback, Listener):
    """Hands each finished training action to the judge at once, and its verdict to the data module.

    It watches the judge's health, and stops the run, with a checkpoint from before the epoch, when the judge cannot be
    used any more or left too much of an epoch unjudged: resumed, the run has the same episodes judged again.
    """

    def __init__(
        self,
        judge: Judge,
        max_unjudged: Annotated[float, Ge(0), Le(1)] = 0.5,
        max_saturation: Annotated[float, Ge(0), Le(1)] = 0.8,
        max_stratum_gap: NonNegativeFloat = 1.0,
        caps: OutcomeCaps | None = None,
        audits: str | None = None,
    ) -> None:
        """Bounds of one epoch.

        Args:
            judge: scores single actions.
            max_unjudged: share of actions without a verdict past which training stops; 1.0 = never.
            max_saturation: share of an agent's actions at 0, or at 10, past which there is a warning.
            max_stratum_gap: points between the mean scores of two kinds of tasks past which there is a warning.
            caps: rules by the outcome, applied to every verdict.
            audits: folder of `python -m mappa.audit`; where it has none of this judge, that is said. None = never.

        Raises:
            ConfigError: caps for a judge that scores actions before there is an outcome.
        """
        if caps is not None:
            caps.check(judge)
        self._caps, self._audits = caps, audits
        self.judge = judge
        self.health: dict[str, float] = {}
        """`judge/...` numbers of the last epoch."""
        self.histogram: dict[str, list[int]] = {}
        """Agent -> how many of its actions were scored 0, 1, ..., 10 in the last epoch."""
        self._max_unjudged = max_unjudged
        self._max_saturation = max_saturation
        self._max_stratum_gap = max_stratum_gap
        self._warned: set[str] = set()
        self.totals: dict[str, float] = {}
        """What the judge's calls of this run add up to so far, as of the last drain."""
        self._history: list[tuple[float, float]] = []
        self._pending: list[asyncio.Task[None]] = []
        self._data = None
        self._epochs = 1
        self._announced = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data = trainer.datamodule
        self._epochs = max(1, trainer.max_epochs or 1)
        if self._audits and trainer.is_global_zero and not file_of(self._audits, self.judge.id).is_file():
            log.info("how good the judge %s is was not measured yet: python -m mappa.audit", self.judge.id)
        self._data.loop.run(self.judge.start())

    async def on_rollout_start(self, purpose: str, episodes: int) -> None:
        if purpose == "train" and not self._announced:
            self._announced = True
            epochs = max(1, self._epochs - self._data.epoch)
            await self.judge.announce(episodes * world()[1] * learned_actions(self._data.team) * epochs)

    async def on_action(self, purpose: str, task: Task, actions: tuple[Action, ...]) -> None:
        if purpose == "train" and self.judge.when is When.ACTION:
            self._submit(Evidence(task, actions, len(actions) - 1))

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        if purpose == "train" and self.judge.when is When.EPISODE:
            for index in range(episode.shared, len(episode.actions)):
                self._submit(Evidence(episode.task, episode.actions, index, episode))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs before the module's hook of the same name, which needs the verdicts.

        Raises:
            JudgeError: the run has been stopped, after a checkpoint.
        """
        with self._data.timed("judge"):
            self._data.loop.run(self._drain())
        episodes, verdicts = self._data.everyone()
        self.health = judge_metrics(episodes, verdicts)
        scores = scores_by_agent(episodes, verdicts)
        self.histogram = {agent: score_counts(values) for agent, values in scores.items()}
        ledger = {f"judge/ledger/{name}": float(value) for name, value in self.totals.items()}
        pl_module.log_dict(self.health | ledger, on_step=False, on_epoch=True)
        if trainer.is_global_zero:
            self._draw(trainer, scores)
            lines = warnings(episodes, verdicts, self._max_saturation, self._max_stratum_gap)
            self._warn(lines | self._drift(mean_grade(episodes)))
        self._stop_if_hopeless(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data.loop.run(self._close())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning tears callbacks down only after a run without an error."""
        if self._data is not None:
            self._data.loop.run(self._close())

    def state_dict(self) -> dict[str, object]:
        return {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._history = [tuple(pair) for pair in state_dict["history"]]

    def _submit(self, evidence: Evidence) -> None:
        """What the frozen base said is seen as evidence, but not scored: nobody learns from it."""
        if evidence.action.agent == BASE:
            return
        self._pending.append(asyncio.get_running_loop().create_task(self._score(evidence)))

    async def _score(self, evidence: Evidence) -> None:
        verdict = await self.judge.score(evidence)
        self._data.verdicts[evidence.action.id] = self._caps.apply(verdict, evidence) if self._caps else verdict

    async def _drain(self) -> None:
        pending, self._pending = self._pending, []
        await asyncio.gather(*pending)
        await self.judge.flush()
        self.totals = await self.judge.totals()

    async def _close(self) -> None:
        self.totals = await self.judge.totals() or self.totals
        await self.judge.close()

    def _drift(self, grade: float | None) -> dict[str, str]:
        """This epoch's mean score and grade are remembered; what they say beside the earlier ones."""
        if grade is not None and "judge/score" in self.health:
            self._history.append((self.health["judge/score"], grade))
        line = drift(self._history)
        return {"drift": line} if line else {}

    def _draw(self, trainer: Trainer, scores: dict[str, list[float]]) -> None:
        """Score histograms, where the logger can draw them."""
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_histogram"):
                edges = np.arange(12) - 0.5
                for agent, values in scores.items():
                    logger.experiment.add_histogram(f"judge/{agent}/scores", np.array(values), self._data.epoch, edges)

    def _warn(self, lines: dict[str, str]) -> None:
        """Say what was not said of the epoch before."""
        for key in sorted(lines.keys() - self._warned):
            log.warning("%s", lines[key])
        self._warned = set(lines)

    def _stop_if_hopeless(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All ranks stop together: the reason may be known to one of them only."""
        reasons = [reason for reason in gather(self.judge.fatal) if reason is not None]
        if self.health.get("judge/unjudged", 0.0) > self._max_unjudged:
            line = unjudged_line(*self._data.everyone())
            reasons.append(f"{line} (max_unjudged={self._max_unjudged:g})")
        if reasons:
            save_and_stop(trainer, pl_module)
            raise JudgeError(f"{reasons[0]}; no update was made: mend it and resume this run")
