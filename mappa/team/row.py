"""Seats in a row, alike but for their place: each goes on from what the one before said, the last one answers."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from mappa.errors import ConfigError
from mappa.play.agent import ALWAYS, handoff, make_agent
from mappa.play.scene import Scene
from mappa.text import check_placeholders

if TYPE_CHECKING:
    from annotated_types import Ge, Le


class Row:
    """`seats` agents of one description, called `seat_a`, `seat_b`, ...; the only thing that differs is who learns."""

    def __init__(self, seats: Annotated[int, Ge(1), Le(26)], seat: Mapping[str, Any], shared: bool = False) -> None:
        """
        Args:
            seat: arguments of `Agent`, the same for all. Its prompt may use `seat`, its letter, and `before`, what the
                seat before it said (nothing, for the first).
            shared: one adapter for all.
        """
        if not seat.get("prompt"):
            raise ConfigError("team.seat.prompt is missing; it says what to go on from")
        check_placeholders(seat["prompt"], ALWAYS | {"seat", "before"}, "team.seat, prompt")
        self._letters = string.ascii_lowercase[:seats]
        made = [make_agent(f"seat_{letter}", seat, shared) for letter in self._letters]
        self.agents = {agent.name: agent for agent in made}

    async def play(self, scene: Scene) -> str:
        """One episode. Returns the last seat's text, reasoning stripped."""
        values, before = scene.told(), ""
        for letter, agent in zip(self._letters, self.agents.values(), strict=True):
            before = handoff(scene, await agent.act(scene, {**values, "seat": letter, "before": before}))
        return before
