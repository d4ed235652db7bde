"""Scores actions while others still generate; the epoch's updates wait for the last verdict."""

from __future__ import annotations

import asyncio

from lightning import Callback, LightningModule, Trainer

from mappa.judge.base import Evidence, Judge, When
from mappa.rollout import Listener
from mappa.types import Action, Episode, Task


class JudgeCallback(Callback, Listener):
    """Hands each finished training action to the judge at once, and its verdict to the data module."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._pending: list[asyncio.Task[None]] = []
        self._data = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data = trainer.datamodule
        self._data.loop.run(self.judge.start())

    async def on_action(self, purpose: str, task: Task, actions: tuple[Action, ...]) -> None:
        if purpose == "train" and self.judge.when is When.ACTION:
            self._submit(Evidence(task, actions, len(actions) - 1))

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        if purpose == "train" and self.judge.when is When.EPISODE:
            for index in range(len(episode.actions)):
                self._submit(Evidence(episode.task, episode.actions, index, episode))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs before the module's hook of the same name, which needs the verdicts."""
        with self._data.timed("judge"):
            self._data.loop.run(self._drain())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data.loop.run(self.judge.close())

    def _submit(self, evidence: Evidence) -> None:
        self._pending.append(asyncio.get_running_loop().create_task(self._score(evidence)))

    async def _score(self, evidence: Evidence) -> None:
        self._data.verdicts[evidence.action.id] = await self.judge.score(evidence)

    async def _drain(self) -> None:
        pending, self._pending = self._pending, []
        await asyncio.gather(*pending)
