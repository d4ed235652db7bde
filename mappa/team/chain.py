"""A chain of specialists: each sees the task and what those before it said; the last one answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mappa.errors import ConfigError
from mappa.play.agent import ALWAYS, handoff, make_agent
from mappa.play.scene import Scene
from mappa.text import check_placeholders


class Chain:
    """Agents act once each, in the order of the configuration."""

    def __init__(self, agents: Mapping[str, Mapping[str, Any]], shared: bool = False) -> None:
        """
        Args:
            agents: name -> arguments of `Agent`, in acting order.
            shared: one adapter for all whose own is not named.
        """
        if not agents:
            raise ConfigError("team.agents is empty; give at least one agent")
        self.agents = {name: make_agent(name, settings, shared) for name, settings in agents.items()}
        known = ALWAYS
        for name, agent in self.agents.items():
            if not agent.prompt:
                raise ConfigError(f"agent '{name}' has no prompt")
            check_placeholders(agent.prompt, known, f"agent '{name}', prompt")
            known |= {name, f"{name}_tool"}

    async def play(self, scene: Scene) -> str:
        """One episode. Returns the last agent's text, reasoning stripped."""
        values = scene.told()
        text = ""
        for name, agent in self.agents.items():
            first = len(scene.actions)
            action = await agent.act(scene, values)
            text = handoff(scene, action)
            runs = [a.tool.text for a in scene.actions[first:] if a.tool is not None]
            values |= {name: text, f"{name}_tool": runs[-1] if runs else "(nothing was run)"}
            values["files"] = "\n".join(scene.files()) or values["files"]
        return text
