"""One seat of the team: prompt -> generate -> run tool -> observe, up to `max_turns`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mappa.engine.base import Engine, Sampling
from mappa.errors import ConfigError
from mappa.seed import stable_seed
from mappa.text import check_placeholders, code_blocks, fill, strip_reasoning
from mappa.types import Action, Message, Task, ToolRun

if TYPE_CHECKING:
    from mappa.chat import Chat
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
    stack: AsyncExitStack
    """Closes the kernel when the episode ends."""
    actions: list[Action] = field(default_factory=list)
    session: KernelSession | None = None
    _files: dict[str, object] = field(default_factory=dict)

    async def kernel(self) -> KernelSession:
        """The episode's kernel and workspace, started when first needed, with the task's files in it."""
        if self.session is None:
            self.session = await self.stack.enter_async_context(self.pool.session())
            for name, path in self.task.files.items():
                self.session.workspace.write(name, await asyncio.to_thread(Path(path).read_bytes))
            self._files = self.session.workspace.list()
        return self.session

    async def run(self, code: str) -> tuple[ToolRun, tuple[str, ...]]:
        """Execute `code` in the episode's kernel; also the files that are new or changed."""
        session = await self.kernel()
        result = await session.execute(code)
        text = self.chat.cut(self.chat.clean(result.to_text()), self.tool_tokens)
        before, self._files = self._files, session.workspace.list()
        changed = tuple(sorted(name for name, info in self._files.items() if before.get(name) != info))
        return ToolRun(code, text, str(result.status), result.duration, result.kernel_restarted), changed

    def files(self) -> tuple[str, ...]:
        """Workspace files as of the last execution."""
        return tuple(sorted(self._files))

    async def record(self, action: Action) -> None:
        self.actions.append(action)
        await self.on_action(self.task, tuple(self.actions))


class Agent:
    """A role with its prompts. Knows nothing of the team; its adapter has the same name."""

    def __init__(
        self,
        name: str,
        role: str,
        system: str,
        prompt: str,
        max_tokens: int,
        max_turns: int = 1,
        tool: bool = False,
        observation: str = "{{tool}}",
        artifacts: Sequence[str] = (),
    ) -> None:
        """Prompts use `{{placeholders}}`.

        Args:
            role: the job in one line, shown to the judge.
            prompt: first user message; may use `task`, `files`, `artifacts`, and each earlier agent's `<name>`,
                `<name>_tool`.
            max_tokens: completion budget of one turn, in tokens.
            tool: fenced python blocks outside the reasoning are run in the episode's kernel.
            observation: user message after a tool run; may use `tool` and `files`.
            artifacts: files this agent has to leave in the workspace.
        """
        if max_tokens < 1 or max_turns < 1:
            raise ConfigError(f"agent '{name}': max_tokens={max_tokens} and max_turns={max_turns} must be at least 1")
        check_placeholders(observation, {"tool", "files"}, f"agent '{name}', observation")
        self.name = name
        self.role = role
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.artifacts = tuple(artifacts)
        self._system = system
        self.max_turns = max_turns
        self._tool = tool
        self._observation = observation

    async def act(self, scene: Scene, values: Mapping[str, str]) -> Action:
        """Take up to `max_turns` turns and return the last action. Each is recorded in `scene` as it finishes.

        The context of a later turn is the very tokens of the turn before, then the observation: what was sampled is
        never rendered anew.

        Raises:
            EngineError: a prompt leaves no room for the completion.
        """
        asked = fill(self.prompt, {**values, "artifacts": ", ".join(self.artifacts)})
        messages = (Message("system", self._system), Message("user", asked))
        prompt_ids = scene.chat.render(messages)
        for turn in range(self.max_turns):
            action = await self._turn(scene, turn, messages, prompt_ids)
            if action.tool is None:
                break
            said = {"tool": action.tool.text, "files": "\n".join(scene.files())}
            reply = Message("user", fill(self._observation, said))
            messages = (*messages, Message("assistant", action.text), reply)
            prompt_ids = scene.chat.extend(prompt_ids, action.completion_ids, [reply])
        return action

    async def _turn(
        self, scene: Scene, turn: int, messages: tuple[Message, ...], prompt_ids: tuple[int, ...]
    ) -> Action:
        sampling = Sampling(
            max_tokens=self.max_tokens,
            temperature=scene.temperature,
            top_p=scene.top_p,
            seed=stable_seed(scene.seed, self.name, turn, len(scene.actions)),
        )
        completion = await scene.engine.generate(self.name, prompt_ids, sampling)
        action = Action(
            id=f"{scene.id}/{len(scene.actions)}",
            agent=self.name,
            role=self.role,
            turn=turn,
            messages=messages,
            prompt_ids=prompt_ids,
            completion_ids=completion.token_ids,
            logprobs=completion.logprobs,
            stop_reason=completion.stop_reason,
            text=scene.chat.decode(completion.token_ids),
            version=completion.version,
        )
        code = code_blocks(strip_reasoning(action.text)) if self._tool and not action.truncated else ""
        if code:
            run, files = await scene.run(code)
            action = replace(action, tool=run, files=files)
        await scene.record(action)
        return action


def handoff(scene: Scene, action: Action) -> str:
    """What the next agent is told of an action: reasoning stripped, no special tokens."""
    return scene.chat.clean(strip_reasoning(action.text))
