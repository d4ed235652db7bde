"""One seat of the team: prompt -> generate -> run tool -> observe, up to `max_turns`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mappa.engine.base import Sampling
from mappa.errors import ConfigError
from mappa.play.scene import Scene
from mappa.seed import stable_seed
from mappa.text import check_placeholders, code_blocks, fill, strip_reasoning
from mappa.types import Action, Message


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
