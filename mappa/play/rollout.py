"""Tasks -> episodes, with bounded concurrency. A bad episode is data, not a crash; every kernel is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mappa.engine.base import Engine
from mappa.errors import ConfigError, EngineError, MappaError
from mappa.play.agent import Agent
from mappa.play.scene import Scene
from mappa.search.base import Search
from mappa.task.base import TaskSet
from mappa.types import BASE, Action, Episode, Grade, Task
from sandbox import SandboxError

if TYPE_CHECKING:
    from mappa.policy.chat import Chat
    from sandbox import KernelPool

GRADE_SECONDS = 300.0
"""Of one episode. A grader bounds its own work; this is for the one that does not."""


class Team(Protocol):
    """A topology: plain async control flow over its seats."""

    agents: dict[str, Agent]
    """Seat -> who sits there."""

    async def play(self, scene: Scene) -> str:
        """One episode; returns the team's final text."""


def adapters_of(team: Team) -> list[str]:
    """The adapters that a team's seats learn with, in the order of the seats.

    Raises:
        ConfigError: there are none.
    """
    found = [name for name in dict.fromkeys(agent.adapter for agent in team.agents.values()) if name != BASE]
    if not found:
        raise ConfigError(f"every seat of the team speaks with the frozen base (adapter: {BASE}); nobody can learn")
    return found


def acts_of(team: Team) -> dict[str, int]:
    """Seat -> how often it acts in an episode at most: what the team's own `acts()` says, else once each."""
    return team.acts() if hasattr(team, "acts") else dict.fromkeys(team.agents, 1)


def learned_actions(team: Team) -> int:
    """Of an episode at most: all turns of seats that learn. So many are judged, too."""
    learning = {seat: acts for seat, acts in acts_of(team).items() if team.agents[seat].adapter != BASE}
    return sum(acts * team.agents[seat].max_turns for seat, acts in learning.items())


def check_budget(team: Team, context_length: int) -> None:
    """Every agent's completion budget must leave room for a prompt.

    Args:
        context_length: most tokens of prompt + completion.

    Raises:
        ConfigError: it does not.
    """
    for name, agent in team.agents.items():
        if agent.max_tokens >= context_length:
            raise ConfigError(
                f"team.agents.{name}.max_tokens={agent.max_tokens} leaves no room for the prompt in the model's "
                f"context of {context_length} tokens; lower it"
            )


class Listener:
    """Told of a rollout as it happens, on its event loop. Callbacks inherit from it."""

    async def on_rollout_start(self, purpose: str, episodes: int) -> None:
        """`purpose`: `train`, or the name of a validation set."""

    async def on_action(self, purpose: str, task: Task, actions: tuple[Action, ...]) -> None:
        """The last of `actions` has just finished; the others are the episode's earlier ones."""

    async def on_episode(self, purpose: str, episode: Episode) -> None:
        """An episode has been graded."""


@dataclass(frozen=True)
class Job:
    """One episode to be played."""

    id: str
    task: Task
    seed: int
    epoch: int | None = None
    """Of training; None for held-out tasks."""


def units(jobs: Sequence[Job], search: Search | None) -> list[list[Job]]:
    """What is played one after the other, on one rank: with a search all attempts at a task, else each by itself."""
    if search is None:
        return [[job] for job in jobs]
    return [list(jobs[i : i + search.attempts]) for i in range(0, len(jobs), search.attempts)]


@dataclass(frozen=True)
class Rollout:
    """The parts that play episodes together."""

    team: Team
    task_set: TaskSet
    engine: Engine
    chat: Chat
    pool: KernelPool
    concurrency: int
    """Episodes in flight."""
    tool_tokens: int
    """Longest tool output an agent is told, in tokens."""

    async def collect(
        self,
        work: Sequence[Sequence[Job]],
        purpose: str,
        listeners: Sequence[Listener],
        temperature: float,
        top_p: float,
        search: Search | None = None,
    ) -> list[Episode]:
        """Play all jobs; episodes come back in the order of the jobs.

        Workers take units from their group's queue, each holding an engine lane for as long as it lives, so that a
        lockstep engine sees the same batches whatever the timing. There are two groups where code is run: one's kernels
        work while the other's words are sampled. The jobs of a unit are played one after the other.

        Args:
            work: units of jobs; see `units`.
            search: where an attempt leaves an earlier one of its unit.

        Raises:
            TaskError: a task's file is gone.
            Whatever a listener raises; what else goes wrong in one episode is that episode's `error`.
        """
        for listener in listeners:
            await listener.on_rollout_start(purpose, sum(map(len, work)))
        tools = any(agent.tool for agent in self.team.agents.values())
        groups = 2 if self.engine.lockstep and tools else 1
        queues = [iter(work[group::groups]) for group in range(groups)]
        episodes: dict[str, Episode] = {}

        async def worker(group: int) -> None:
            async with self.engine.lane(group):
                for unit in queues[group]:
                    made: list[Episode] = []
                    for job in unit:
                        branch = search.branch(job.task, made, unit[0].seed) if search is not None else None
                        made.append(await self._play(job, purpose, listeners, temperature, top_p, branch))
                        episodes[job.id] = made[-1]
                        for listener in listeners:
                            await listener.on_episode(purpose, made[-1])

        try:
            async with asyncio.TaskGroup() as tasks:
                for index in range(min(max(groups, self.concurrency), len(work))):
                    tasks.create_task(worker(index % groups))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first ended the others
        return [episodes[job.id] for unit in work for job in unit]

    async def _play(
        self,
        job: Job,
        purpose: str,
        listeners: Sequence[Listener],
        temperature: float,
        top_p: float,
        branch: tuple[Episode, int] | None = None,
    ) -> Episode:
        parent, shared = branch or (None, 0)

        broken: list[Exception] = []

        async def on_action(task: Task, actions: tuple[Action, ...]) -> None:
            try:
                for listener in listeners:
                    await listener.on_action(purpose, task, actions)
            except Exception as failure:
                broken.append(failure)  # not the episode's
                raise

        started = time.monotonic()
        answer, grade, error = None, None, None
        async with AsyncExitStack() as stack:
            scene = Scene(
                id=job.id,
                task=job.task,
                seed=job.seed,
                engine=self.engine,
                chat=self.chat,
                pool=self.pool,
                temperature=temperature,
                top_p=top_p,
                tool_tokens=self.tool_tokens,
                on_action=on_action,
                vote=self.task_set.vote,
                epoch=job.epoch,
                replay=parent.actions[:shared] if parent is not None else (),
                stack=stack,
            )
            try:
                answer = await self.team.play(scene)
            except (EngineError, SandboxError) as failure:
                error = str(failure)
            except Exception as failure:  # boundary: the episode fails, and is counted; what ends the run is our own
                if isinstance(failure, MappaError) or failure in broken:
                    raise
                error = f"the episode failed: {_named(failure)}"
            else:
                grade, error = await self._grade(job.task, answer, scene)
        return Episode(
            id=job.id,
            task=job.task,
            seed=job.seed,
            actions=tuple(scene.actions),
            answer=answer,
            grade=grade,
            files={
                name: tuple(sorted({f for a in scene.actions if a.seat == name for f in a.files}))
                for name in self.team.agents
            },
            error=error,
            seconds=time.monotonic() - started,
            parent=parent.id if parent is not None else None,
            shared=min(shared, len(scene.actions)),
        )

    async def _grade(self, task: Task, answer: str, scene: Scene) -> tuple[Grade | None, str | None]:
        """The grade, or why there is none: a grader meets whatever agents make up, and must not end the run."""
        workspace = scene.session.workspace if scene.session is not None else None
        try:
            graded = asyncio.to_thread(self.task_set.grade, task, answer, workspace)
            return await asyncio.wait_for(graded, GRADE_SECONDS), None
        except TimeoutError:
            return None, f"grading took longer than {GRADE_SECONDS:g} s"
        except Exception as failure:  # noqa: BLE001 - boundary: the episode fails, and is counted
            return None, f"the grader failed: {_named(failure)}"


def _named(failure: Exception) -> str:
    """In one line."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
