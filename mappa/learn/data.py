"""LightningDataModule: `train_dataloader()` = fresh on-policy rollouts of this epoch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lightning import LightningDataModule

from mappa.engine.base import Engine
from mappa.epoch import save_and_stop
from mappa.errors import ConfigError, RolloutError
from mappa.learn.canary import check_voices
from mappa.learn.rows import Row, cut_updates
from mappa.learn.window import task_window
from mappa.play.episodes import read_episodes, stored_files, to_json, write_episodes
from mappa.play.loop import EventLoop
from mappa.play.rollout import Job, Listener, Rollout, Team, check_budget, units
from mappa.ranks import gather, world
from mappa.search.base import Search
from mappa.seed import stable_seed
from mappa.task.base import TaskSet
from mappa.types import Episode, Verdict
from sandbox import SandboxUnavailableError

if TYPE_CHECKING:
    from annotated_types import Ge, Gt, Le
    from pydantic import PositiveFloat, PositiveInt

    from sandbox import KernelPool


class RolloutDataModule(LightningDataModule):
    """Plays the team's episodes on the adapters' current weights. Its only mutable state is the epoch counter."""

    def __init__(
        self,
        task_set: TaskSet,
        team: Team,
        engine: Engine,
        pool: KernelPool,
        tasks_per_epoch: PositiveInt = 32,
        samples_per_task: PositiveInt = 2,
        updates_per_epoch: PositiveInt = 1,
        concurrency: PositiveInt = 64,
        temperature: PositiveFloat = 1.0,
        top_p: Annotated[float, Gt(0), Le(1)] = 1.0,
        tool_tokens: PositiveInt = 512,
        max_failed: Annotated[float, Ge(0), Le(1)] = 0.5,
        seed: int = 0,
        folder: str | None = None,
        stored: str | None = None,
        made_with: str = "",
    ) -> None:
        """
        Args:
            made_with: names task set, team and model: stored episodes of others are not taken up again.
            folder: where the episodes of each epoch are kept; None = nowhere.
            stored: another run's folder, whose episodes are this run's first epoch; None = it plays its own.
            The others: see conf/train.yaml.
        """
        super().__init__()
        self.task_set, self.team, self.engine, self.pool = task_set, team, engine, pool
        self.updates_per_epoch = updates_per_epoch
        self.temperature = temperature
        self.epoch = 0
        self.episodes: list[Episode] = []
        """This rank's episodes of the current epoch."""
        self.verdicts: dict[str, Verdict] = {}
        """Action id -> verdict, of the current epoch; filled by the judge callback."""
        self.rows: list[Row] = []
        """This rank's actions with their advantages; set by the module once the last verdict is in."""
        self.seconds: dict[str, float] = defaultdict(float)
        """Wall-clock seconds of the current epoch by phase."""
        self.loop = EventLoop()
        self._tasks_per_epoch, self._samples_per_task = tasks_per_epoch, samples_per_task
        self._concurrency, self._top_p, self._tool_tokens, self._seed = concurrency, top_p, tool_tokens, seed
        self._max_failed = max_failed
        self._folder = Path(folder) if folder else None
        self._stored, self._made_with = stored, made_with
        self._rollout: Rollout | None = None
        self._collected = -1

    def train_dataloader(self) -> UpdateLoader:
        """Lightning may ask more than once for the same epoch (when it resumes): the rollout is made only once."""
        if self._collected != self.epoch:
            self.seconds.clear()
            self.verdicts.clear()
            self.rows = []
            self.episodes = self._collect_epoch()
            self._collected = self.epoch
        return UpdateLoader(self)

    def play(
        self, jobs: Sequence[Job], purpose: str, temperature: float, top_p: float, search: Search | None = None
    ) -> list[Episode]:
        """This rank's share of `jobs`, played on the current weights; in the order of the jobs."""
        rank, size = world()
        rollout = self._ready()
        listeners = [callback for callback in self.trainer.callbacks if isinstance(callback, Listener)]
        engine = self.engine.playing(purpose, self.epoch)
        with self.timed("sync"):
            self.loop.run(engine.sync(self.trainer.lightning_module.version))
            self.loop.run(engine.wake())
        try:
            with self.timed("generate" if purpose == "train" else "validate"):
                mine = units(jobs, search)[rank::size]
                engine.idle.begin()
                played = replace(rollout, engine=engine).collect(mine, purpose, listeners, temperature, top_p, search)
                return self.loop.run(played)
        finally:
            idle = engine.idle.end()
            if purpose == "train" and idle is not None:
                self.seconds["engine_idle"] = idle
            self.loop.run(engine.sleep())

    def with_grade(self, episode: Episode) -> Episode:
        """The same, or where it ended in an error: with the task's grade of a failed run."""
        if episode.grade is not None:
            return episode
        return replace(episode, grade=self.task_set.grade(episode.task, None, None))

    def everyone(self) -> tuple[list[Episode], dict[str, Verdict]]:
        """Episodes and verdicts of all ranks. Collective."""
        parts = gather((self.episodes, self.verdicts))
        episodes = sorted((e for part in parts for e in part[0]), key=lambda e: e.id)
        return episodes, {key: value for part in parts for key, value in part[1].items()}

    def finish_epoch(self) -> None:
        """The updates of this epoch are done: the next `train_dataloader()` makes a new rollout."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.epoch = state_dict["epoch"]

    def episodes_path(self, epoch: int) -> Path | None:
        return None if self._folder is None else self._folder / f"epoch={epoch:04d}.jsonl"

    def header(self) -> dict[str, Any]:
        """What the stored episodes of this epoch were made with."""
        module = self.trainer.lightning_module
        return {
            "epoch": self.epoch,
            "version": module.version,
            "adapters": module.adapters.fingerprint(),
            "sampling": [self.temperature, self._top_p, self._seed, self._tool_tokens],
            "made_with": self._made_with,
        }

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall-clock time of the block to this epoch's seconds of `phase`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] += time.monotonic() - started

    def close(self) -> None:
        """Close engine, kernels and the event loop."""
        self.loop.run(self.engine.close())
        self.loop.run(self.pool.close())
        self.loop.close()

    def _ready(self) -> Rollout:
        """Attach the engine to the policy, hear that it speaks with it, and start the kernels, once."""
        if self._rollout is None:
            module = self.trainer.lightning_module
            self.engine.attach(module.adapters, module.chat, module.model.path)
            check_budget(self.team, self.engine.context_length)
            if self.engine.takes_weights:
                check_voices(self.engine, self.loop, module.policies, module.chat, module.version)
            try:
                self.loop.run(self.pool.start())
            except SandboxUnavailableError as error:
                raise ConfigError(str(error)) from error
            self._rollout = Rollout(
                self.team,
                self.task_set,
                self.engine,
                module.chat,
                self.pool,
                self._concurrency,
                self._tool_tokens,
            )
        return self._rollout

    def _collect_epoch(self) -> list[Episode]:
        """Play this epoch's episodes, or take them from disk when a killed run had already played them."""
        if self._stored is not None and self.epoch == 0:
            return self._of_another_run(self._stored)
        objective = self.trainer.lightning_module.turn
        jobs = self._jobs(self.epoch, objective.attempts or self._samples_per_task)
        path, header = self.episodes_path(self.epoch), self.header()
        stored = None if path is None else read_episodes(path, header)
        rank, size = world()
        complete = stored is not None and list(map(_played, stored)) == list(map(_played, jobs))
        if all(gather(complete)):
            self._ready()
            mine = {job.id for unit in units(jobs, objective.search)[rank::size] for job in unit}
            episodes = [episode for episode in stored if episode.id in mine]
            self.loop.run(self._replay(episodes))
            return episodes
        episodes = self.play(jobs, "train", self.temperature, self._top_p, objective.search)
        self._stop_if_failed(episodes)
        self.seconds["tool"] = sum(a.tool.seconds for e in episodes for a in e.own if a.tool is not None)
        if path is not None:
            everyone = sorted((e for part in gather(episodes) for e in part), key=lambda e: e.id)
            if rank == 0:
                write_episodes(path, header, [to_json(episode) for episode in everyone])
        return episodes

    def _stop_if_failed(self, episodes: Sequence[Episode]) -> None:
        """Before they are stored or paid for: a resumed run plays this epoch again. Collective.

        Raises:
            RolloutError: too many episodes of all ranks ended in an error, or nobody did anything.
        """
        parts = gather(([e.error for e in episodes], sum(len(e.own) for e in episodes)))
        errors, actions = [error for part in parts for error in part[0]], sum(part[1] for part in parts)
        failed = [error for error in errors if error is not None]
        if actions and len(failed) <= self._max_failed * len(errors):
            return
        save_and_stop(self.trainer, self.trainer.lightning_module)
        reason = f"{len(failed)} of {len(errors)} episodes of epoch {self.epoch} failed, with {actions} actions"
        first = f"; the first: {failed[0]}" if failed else ""
        raise RolloutError(
            f"{reason} (data.max_failed={self._max_failed:g}){first}; no update was made: mend it and resume this run"
        )

    def _of_another_run(self, run: str) -> list[Episode]:
        """This rank's share of all episodes that another run has stored.

        Raises:
            ConfigError: they are of another tokenizer.
        """
        rank, size = world()
        episodes = [episode for path in stored_files(run) for episode in read_episodes(path)]
        action = next(action for episode in episodes for action in episode.actions)
        if self.trainer.lightning_module.chat.said(action.completion_ids) != action.text:
            raise ConfigError(f"data.stored={run}: its tokens are not this model's; it was made with another tokenizer")
        self._ready()
        self.loop.run(self._replay(episodes[rank::size]))
        return episodes[rank::size]

    async def _replay(self, episodes: Sequence[Episode]) -> None:
        """Tell the listeners of stored episodes as if they had just been played, so that they are judged."""
        for listener in [callback for callback in self.trainer.callbacks if isinstance(callback, Listener)]:
            await listener.on_rollout_start("train", len(episodes))
            for episode in episodes:
                for count in range(episode.shared, len(episode.actions)):
                    await listener.on_action("train", episode.task, episode.actions[: count + 1])
                await listener.on_episode("train", episode)

    def _jobs(self, epoch: int, attempts: int) -> list[Job]:
        """The epoch's episodes: a window of the endless task order, each task `attempts` times."""
        first = epoch * self._tasks_per_epoch
        tasks = task_window(self.task_set.train(), first, self._tasks_per_epoch, self._seed)
        return [
            Job(
                id=f"{epoch:04d}-{index * attempts + copy:05d}",
                task=task,
                seed=stable_seed(self._seed, "train", epoch, index, copy),
                epoch=epoch,
            )
            for index, task in enumerate(tasks)
            for copy in range(attempts)
        ]


class UpdateLoader:
    """`updates_per_epoch` batches, each the rows of one optimizer step.

    Lightning fixes the length before the verdicts are in, so it does not depend on them; the rows are cut when the
    first batch is asked for.
    """

    def __init__(self, data: RolloutDataModule) -> None:
        self._data = data

    def __len__(self) -> int:
        return self._data.updates_per_epoch

    def __iter__(self) -> Iterator[list[Row]]:
        seed = stable_seed(self._data.epoch, "updates")
        passes = self._data.trainer.lightning_module.turn.passes
        yield from cut_updates(self._data.rows, len(self), seed, passes, gather, world()[0])


def _played(job: Job | Episode) -> tuple[object, ...]:
    """What tells an episode from every other one: of another problem, or with another seed, it is another one."""
    return job.id, job.seed, job.task.id, job.task.question, job.task.answer
