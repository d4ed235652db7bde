"""One seat of the team: prompt -> generate -> run tool -> observe, up to `max_turns`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mappa.engine.base import Sampling
from mappa.errors import ConfigError
from mappa.play.scene import Scene
from mappa.seed import stable_seed
from mappa.text import check_placeholders, code_blocks, fill, in_reasoning, strip_reasoning
from mappa.types import BASE, Action, Message


class Agent:
    """One seat: a role with its prompts. Knows nothing of the team."""

    def __init__(
        self,
        name: str,
        role: str,
        system: str = "",
        prompt: str = "",
        *,
        max_tokens: int,
        reply: str = "{{heard}}",
        adapter: str | None = None,
        max_turns: int = 1,
        tool: bool = False,
        observation: str = "{{tool}}",
        artifacts: Sequence[str] = (),
    ) -> None:
        """Prompts use `{{placeholders}}`.

        Args:
            role: the job in one line, shown to the judge.
            prompt: first user message; may use `task`, `files`, `artifacts`, and what the team offers.
            max_tokens: completion budget of one turn, in tokens.
            reply: user message where it goes on from an action instead; may use the same.
            adapter: who learns from what it says; None = an adapter of the seat's own name, `base` = the frozen base
                speaks and nobody learns. Seats that name the same one share it.
            tool: fenced python blocks outside the reasoning are run in the episode's kernel.
            observation: user message after a tool run; may use `tool` and `files`.
            artifacts: files this agent has to leave in the workspace.
        """
        if max_tokens < 1 or max_turns < 1:
            raise ConfigError(f"agent '{name}': max_tokens={max_tokens} and max_turns={max_turns} must be at least 1")
        if name == BASE and adapter is None:
            raise ConfigError(f"no seat may be called '{BASE}', the name of the frozen base as an adapter; rename it")
        check_placeholders(observation, {"tool", "files"}, f"agent '{name}', observation")
        self.name = name
        self.adapter = name if adapter is None else adapter
        self.role = role
        self.system = system
        self.prompt = prompt
        self.reply = reply
        self.max_tokens = max_tokens
        self.artifacts = tuple(artifacts)
        self.max_turns = max_turns
        self.tool = tool
        self._observation = observation

    async def act(self, scene: Scene, values: Mapping[str, str], after: Action | None = None, hint: str = "") -> Action:
        """Take up to `max_turns` turns and return the last action. Each is recorded in `scene` as it finishes.

        The context of a later turn is the very tokens of the turn before, then the observation: what was sampled is
        never rendered anew.

        Args:
            after: go on from this action's tokens with `reply`, instead of a new conversation; it may be another's.
            hint: said at the end of the first message; what is learned is learned as if it had not been.

        Raises:
            EngineError: a prompt leaves no room for the completion.
        """
        values = {**values, "artifacts": ", ".join(self.artifacts)}
        messages, prompt_ids, plain_ids = self._opening(scene, values, after, hint)
        for turn in range(self.max_turns):
            action = await self._turn(scene, turn, messages, prompt_ids, plain_ids)
            if action.tool is None:
                break
            said = {"tool": action.tool.text, "files": "\n".join(scene.files())}
            message = Message("user", fill(self._observation, said))
            messages, prompt_ids, plain_ids = _go_on(scene, action, message)
        return action

    def _opening(self, scene: Scene, values: Mapping[str, str], after: Action | None, hint: str) -> Context:
        text = fill(self.prompt if after is None else self.reply, values)
        plain, said = Message("user", text), Message("user", f"{text}\n\n{hint}" if hint else text)
        if after is None:
            system = Message("system", self.system)
            return (
                (system, said),
                scene.chat.render((system, said)),
                scene.chat.render((system, plain)) if hint else None,
            )
        messages, prompt_ids, plain_ids = _go_on(scene, after, said)
        if hint:
            plain_ids = scene.chat.extend(after.context_ids, after.completion_ids, [plain])
        return messages, prompt_ids, plain_ids

    async def _turn(
        self,
        scene: Scene,
        turn: int,
        messages: tuple[Message, ...],
        prompt_ids: tuple[int, ...],
        plain_ids: tuple[int, ...] | None,
    ) -> Action:
        recorded = await scene.replayed(self.name, prompt_ids)
        if recorded is not None:
            return recorded
        sampling = Sampling(
            max_tokens=self.max_tokens,
            temperature=scene.temperature,
            top_p=scene.top_p,
            seed=stable_seed(scene.seed, self.name, turn, len(scene.actions)),
        )
        completion = await scene.engine.generate(self.adapter, prompt_ids, sampling)
        action = Action(
            id=f"{scene.id}/{len(scene.actions)}",
            agent=self.adapter,
            role=self.role,
            turn=turn,
            messages=messages,
            prompt_ids=prompt_ids,
            completion_ids=completion.token_ids,
            logprobs=completion.logprobs,
            stop_reason=completion.stop_reason,
            text=scene.chat.said(completion.token_ids),
            version=completion.version,
            seat=self.name,
            plain_ids=plain_ids,
        )
        code = code_blocks(strip_reasoning(action.text)) if self.tool and not action.truncated else ""
        if code:
            run, files = await scene.run(code)
            action = replace(action, tool=run, files=files)
        if self.artifacts and (action.tool is None or turn + 1 == self.max_turns):
            action = replace(action, probe=await scene.probe(self.artifacts))
        await scene.record(action)
        return action


Context = tuple[tuple[Message, ...], tuple[int, ...], tuple[int, ...] | None]
"""The conversation, its tokens, and its tokens without hints where there was one."""


def _go_on(scene: Scene, action: Action, message: Message) -> Context:
    """What was seen and said in `action`, then `message`."""
    messages = (*action.messages, Message("assistant", action.text), message)
    prompt_ids = scene.chat.extend(action.prompt_ids, action.completion_ids, [message])
    if action.plain_ids is None:
        return messages, prompt_ids, None
    return messages, prompt_ids, scene.chat.extend(action.plain_ids, action.completion_ids, [message])


ALWAYS = frozenset({"task", "files", "artifacts"})
"""Placeholders that every team offers to its prompts."""
CUT_OFF = "(This message ended inside its reasoning, before anything was said.)"
"""Handed on instead of reasoning that never ended."""
SHARED = "agent"
"""The adapter of seats that share one."""


def make_agent(name: str, settings: Mapping[str, Any], shared: bool = False) -> Agent:
    """The seat that a configuration describes.

    Args:
        shared: where the configuration names no adapter, the one of all such seats.

    Raises:
        ConfigError: a key that no seat has, or one that is missing.
    """
    known = inspect.signature(Agent.__init__).parameters
    for key in settings:
        if key not in known or key in ("self", "name"):
            takes = ", ".join(sorted(set(known) - {"self", "name"}))
            raise ConfigError(f"agent '{name}': unknown key '{key}'; a seat takes: {takes}")
    missing = [key for key in ("role", "max_tokens") if key not in settings]
    if missing:
        raise ConfigError(f"agent '{name}': '{missing[0]}' is missing")
    return Agent(name, **({"adapter": SHARED} if shared else {}) | {k: v for k, v in settings.items() if v is not None})


def handoff(scene: Scene, action: Action) -> str:
    """What the next agent is told of an action: reasoning stripped, no special tokens.

    Of one that never came out of its reasoning, a note.
    """
    text = scene.chat.clean(strip_reasoning(action.text))
    return CUT_OFF if not text and in_reasoning(action.text) else text
