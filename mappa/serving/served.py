"""A trained team that answers: its adapters, engine and kernels, outside of any training."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mappa.checkpoint import check_adapters
from mappa.config import check, make
from mappa.engine.base import Completion, Engine, Sampling
from mappa.errors import ConfigError, EngineError
from mappa.play.rollout import adapters_of
from mappa.play.scene import Scene
from mappa.serving.stored import Stored
from mappa.types import Action, Message, Task
from sandbox import SandboxUnavailableError

if TYPE_CHECKING:
    from mappa.play.agent import Agent
    from mappa.policy.model import Model
    from sandbox import KernelPool

MOST_BYTES = 8 * 2**20
"""Of a file that is given back."""
OnAction = Callable[[Action], Awaitable[None]]


class TooLongError(EngineError):
    """A prompt leaves no room for the completion."""


@dataclass(frozen=True)
class Way:
    """How a request is sampled."""

    seed: int
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Reply:
    """What the team, or one agent, has answered."""

    text: str
    truncated: bool
    """The last completion was cut off."""
    prompt_tokens: int
    completion_tokens: int
    actions: tuple[Action, ...] = ()
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    """What the team has left in its workspace; None = cannot be read, or is too large."""


@dataclass(frozen=True)
class _SavedAdapters:
    """So much of `Adapters` as an engine with weights of its own takes: files, and shapes."""

    folder: Path
    agents: tuple[str, ...]
    rank: int
    base: Any
    """Has the base model's `config`."""

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder)


@dataclass(frozen=True)
class _Config:
    config: Any


@dataclass(frozen=True)
class ServedTeam:
    """Use as `async with served(...)`; everything runs on the event loop that opened it."""

    name: str
    agents: dict[str, Agent]
    """Seat -> who sits there."""
    way: Way
    """By default."""
    _team: Any
    _scene: Scene
    """What every request's own is made from."""

    async def play(
        self,
        question: str,
        way: Way,
        on_action: OnAction | None = None,
        files: Mapping[str, bytes] | None = None,
        **metadata: Any,
    ) -> Reply:
        """The whole team answers `question`.

        Args:
            on_action: told of each action as it finishes.
            files: put into the workspace first.
            metadata: of the task, e.g. `views` of a dialogue's partners.

        Raises:
            TooLongError, EngineError, SandboxError: it cannot.
        """

        async def tell(task: Task, actions: tuple[Action, ...]) -> None:
            if on_action is not None:
                await on_action(actions[-1])

        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mappa-asked-"))
            given = await asyncio.to_thread(_write, Path(folder), files or {})
            task = Task(f"asked-{uuid.uuid4().hex[:12]}", question, files=given, metadata=metadata)
            scene = replace(
                self._scene,
                id=task.id,
                task=task,
                seed=way.seed,
                temperature=way.temperature,
                top_p=way.top_p,
                on_action=tell,
                stack=stack,
                actions=[],
            )
            text = await self._team.play(scene)
            made = sorted({name for action in scene.actions for name in action.files})
            left = {name: await asyncio.to_thread(_read, scene, name) for name in made}
        said = sum(len(action.completion_ids) for action in scene.actions)
        seen = sum(len(action.prompt_ids) for action in scene.actions)
        cut = bool(scene.actions) and scene.actions[-1].truncated
        return Reply(text, cut, seen, said, tuple(scene.actions), left)

    async def say(self, seat: str, messages: Sequence[Message], way: Way, max_tokens: int | None) -> Reply:
        """One completion of one agent, under its own system prompt where `messages` bring none.

        Raises:
            TooLongError, EngineError: it cannot.
        """
        agent, chat = self.agents[seat], self._scene.chat
        if all(message.role != "system" for message in messages):
            messages = [Message("system", agent.system), *messages]
        prompt_ids = chat.render([Message(m.role, chat.clean(m.content)) for m in messages])
        sampling = Sampling(max_tokens or agent.max_tokens, way.temperature, way.top_p, way.seed)
        made = await self._scene.engine.generate(agent.adapter, prompt_ids, sampling)
        cut = made.stop_reason == "length"
        return Reply(chat.said(made.token_ids), cut, len(prompt_ids), len(made.token_ids))


def _write(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Name in the workspace -> path on the host."""
    paths = {name: folder / str(index) for index, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name])
    return {name: str(path) for name, path in paths.items()}


def _read(scene: Scene, name: str) -> bytes | None:
    try:
        return scene.session.workspace.read(name, MOST_BYTES)
    except OSError:
        return None


class _Checked:
    """An engine that tells a prompt that is too long from every other failure."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if len(prompt_ids) + sampling.max_tokens > self._engine.context_length:
            raise TooLongError(
                f"{len(prompt_ids)} prompt tokens and {sampling.max_tokens} to be said exceed the context of "
                f"{self._engine.context_length} tokens"
            )
        return await self._engine.generate(agent, prompt_ids, sampling)


@asynccontextmanager
async def served(found: Stored, engine: Engine | None = None) -> AsyncIterator[ServedTeam]:
    """Load everything, start the kernels, and give it all back at the end.

    Args:
        engine: instead of the configuration's.

    Raises:
        MappaError: one line that says what is wrong.
    """
    cfg = found.cfg
    with tempfile.TemporaryDirectory(prefix="mappa-serve-") as folder:
        cfg.paths = {"run": folder, "outputs": folder}
        model, task_set, pool = make(cfg.model), make(cfg.task), make(cfg.sandbox)
        team = make(cfg.team, _convert_="all")
        engine = engine or make(cfg.engine)
        chat = model.chat()
        adapters = await asyncio.to_thread(_adapters, found, model, adapters_of(team), engine.shares_weights)
        engine.attach(adapters, chat, model.path)
        try:
            await engine.sync(found.epoch)
            await engine.wake()
            if any(agent.tool for agent in team.agents.values()):
                await _start(pool)
            way = Way(0, cfg.data.temperature, cfg.data.top_p)
            scene = Scene(
                id="",
                task=Task("", ""),
                seed=0,
                engine=_Checked(engine),
                chat=chat,
                pool=pool,
                temperature=way.temperature,
                top_p=way.top_p,
                tool_tokens=cfg.data.tool_tokens,
                on_action=_nobody,
                vote=task_set.vote,
                epoch=None,
                replay=(),
                stack=AsyncExitStack(),
            )
            yield ServedTeam(str(cfg.name), team.agents, way, team, scene)
        finally:
            await engine.close()
            await pool.close()


async def _start(pool: KernelPool) -> None:
    try:
        await pool.start()
    except SandboxUnavailableError as error:
        raise ConfigError(str(error)) from error


async def _nobody(task: Task, actions: tuple[Action, ...]) -> None: ...


def _adapters(found: Stored, model: Model, agents: Sequence[str], load: bool) -> Any:
    """The adapters on their base; where the engine has weights of its own, only where they lie."""
    import torch
    from transformers import AutoConfig

    cfg = found.cfg
    if not load:
        config = AutoConfig.from_pretrained(model.path)
        return _SavedAdapters(found.adapters, tuple(agents), cfg.lora.rank, _Config(config))
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    adapters = make(cfg.lora)(model.load(), agents)
    adapters.load(found.adapters)
    adapters.model.eval()
    if torch.cuda.is_available():
        adapters.model.to("cuda")
    return adapters


def check_stored(found: Stored) -> None:
    """What can be told before anything is loaded.

    Raises:
        MappaError: one line that says what is wrong.
    """
    cfg = found.cfg
    check(cfg)
    model, team = make(cfg.model), make(cfg.team, _convert_="all")
    model.check()
    check_adapters(found.adapters, adapters_of(team), cfg.lora, cfg.model.path)
    if "teacher" in cfg.engine:
        raise ConfigError("engine=teacher plays a run's first epoch; serve with engine=hf or engine=vllm")
