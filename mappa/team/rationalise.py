"""One agent that is told the answer where it was wrong, in training only: STaR (arXiv 2203.14465)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mappa.errors import ConfigError
from mappa.play.agent import ALWAYS, handoff, make_agent
from mappa.play.scene import Scene
from mappa.text import check_placeholders, fill


class Rationalise:
    """The agent answers; in training, where its answer is not the key's, it answers again under a hint.

    The episode's answer is always the first: no reported accuracy has seen a hint. The only team that looks at the key.
    """

    def __init__(self, agent: Mapping[str, Any], hint: str) -> None:
        """
        Args:
            agent: arguments of `Agent`; its prompt may use `task`.
            hint: with `{{answer}}`; said at the end of the prompt, and not learned under.
        """
        self.agents = {"solver": make_agent("solver", agent)}
        if not self.agents["solver"].prompt:
            raise ConfigError("team.agent.prompt is missing")
        check_placeholders(self.agents["solver"].prompt, ALWAYS, "team.agent, prompt")
        check_placeholders(hint, {"answer"}, "team.hint")
        self._hint = hint

    def acts(self) -> dict[str, int]:
        """At most: once more where it was wrong."""
        return {"solver": 2}

    async def play(self, scene: Scene) -> str:
        """One episode. Returns the first answer's text, reasoning stripped."""
        agent, task = self.agents["solver"], scene.task
        values = scene.told()
        text = handoff(scene, await agent.act(scene, values))
        known = scene.epoch is not None and task.answer is not None
        truth = rf"\boxed{{{task.answer}}}"
        if known and await asyncio.to_thread(scene.vote, text) != await asyncio.to_thread(scene.vote, truth):
            await agent.act(scene, values, hint=fill(self._hint, {"answer": task.answer}))
        return text
