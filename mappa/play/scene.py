"""What the agents of one episode share: task, engine, kernel and workspace, and the record of actions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mappa.engine.base import Engine
from mappa.errors import EngineError, TaskError
from mappa.play import probe
from mappa.play.places import located, told_names
from mappa.types import Action, Task, ToolRun

if TYPE_CHECKING:
    from mappa.policy.chat import Chat
    from sandbox import KernelPool, KernelSession


@dataclass
class Scene:
    """What the agents of one episode share: the task, the engine, a lazily opened kernel, and the record of actions."""

    id: str
    task: Task
    seed: int
    engine: Engine
    chat: Chat
    pool: KernelPool
    temperature: float
    top_p: float
    tool_tokens: int
    """Longest tool output an agent is told, in tokens."""
    on_action: Callable[[Task, tuple[Action, ...]], Awaitable[None]]
    """Told of each action as it finishes."""
    vote: Callable[[str], str | None]
    """The answer that a text gives, in the task's normal form; None = none can be read. May take a while: not in the
    event loop's thread."""
    epoch: int | None
    """Of training; None where held-out tasks are played."""
    replay: tuple[Action, ...]
    """Actions of an earlier attempt with which this one begins."""
    stack: AsyncExitStack
    """Closes the kernel when the episode ends."""
    actions: list[Action] = field(default_factory=list)
    session: KernelSession | None = None
    _files: dict[str, object] = field(default_factory=dict)
    _artifacts: dict[str, None] = field(default_factory=dict)

    async def kernel(self) -> KernelSession:
        """The episode's kernel and workspace, started when first needed, with the task's files in it.

        Raises:
            TaskError: one of its files is gone.
        """
        if self.session is None:
            self.session = await self.stack.enter_async_context(self.pool.session())
            for name, path in self.task.files.items():
                try:
                    content = await asyncio.to_thread(Path(path).read_bytes)
                except OSError as error:
                    raise TaskError(f"task {self.task.id}: its file {name} cannot be read: {error}") from error
                await asyncio.to_thread(self.session.workspace.write, name, content)
            self._files = await asyncio.to_thread(self.session.workspace.list)
        return self.session

    async def run(self, code: str) -> tuple[ToolRun, tuple[str, ...]]:
        """Execute `code` in the episode's kernel; also the files that are new or changed, as they may be told."""
        session = await self.kernel()
        result = await session.execute(code)
        text = self.chat.cut(self.chat.clean(located(result).to_text()), self.tool_tokens)
        before, self._files = self._files, await asyncio.to_thread(session.workspace.list)
        changed = told_names((n for n, info in self._files.items() if before.get(n) != info), self.chat.clean)
        return ToolRun(code, text, str(result.status), result.duration, result.kernel_restarted), changed

    async def probe(self, artifacts: Sequence[str]) -> Mapping[str, Any] | None:
        """What these files, and those of earlier acts, hold; None where no kernel was ever needed, or it cannot say.

        Held-out tasks are not judged, and not probed.
        """
        self._artifacts |= dict.fromkeys(artifacts)
        if self.session is None or self.epoch is None:
            return None
        code, mark = probe.code(tuple(self._artifacts), tuple(self.task.files))
        result = await self.session.execute(code, probe.SECONDS)
        return probe.answer(result.stdout, mark)

    def files(self) -> tuple[str, ...]:
        """Workspace files as of the last execution, as they may be told."""
        return told_names(self._files, self.chat.clean)

    def told(self) -> dict[str, str]:
        """What every prompt may use: the task, and the files there are, at first the task's own."""
        return {"task": self.task.question, "files": "\n".join(self.files() or sorted(self.task.files))}

    async def replayed(self, seat: str, prompt_ids: tuple[int, ...]) -> Action | None:
        """The recorded action whose turn it is, its code run again so that the kernel has its state; None = a new one.

        Raises:
            EngineError: it was said by another seat, or in another context.
        """
        if len(self.actions) >= len(self.replay):
            return None
        action = self.replay[len(self.actions)]
        if (action.seat, action.prompt_ids) != (seat, prompt_ids):
            raise EngineError(
                f"action {action.id} cannot be replayed: {seat} is asked something else than {action.seat} was"
            )
        if action.tool is not None:
            await self.run(action.tool.code)
        self.actions.append(action)
        return action

    async def record(self, action: Action) -> None:
        self.actions.append(action)
        await self.on_action(self.task, tuple(self.actions))
