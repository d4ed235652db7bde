"""Two seats talk in turn until they agree (Optima, arXiv 2410.08115), or until the first of them states the answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mappa.errors import ConfigError
from mappa.play.agent import ALWAYS, Agent, handoff, make_agent
from mappa.play.scene import Scene
from mappa.seed import stable_seed
from mappa.text import check_placeholders
from mappa.types import Action, Task

if TYPE_CHECKING:
    from pydantic import NonNegativeInt, PositiveInt


class Dialogue:
    """Each seat goes on in its own conversation: its messages are the assistant's, the other's are the user's.

    A message's answer is what the task reads in it (`vote`).
    """

    def __init__(
        self,
        agents: Mapping[str, Mapping[str, Any]],
        rounds: PositiveInt = 10,
        until: Literal["agreement", "answer"] = "agreement",
        decides: Literal["either", "first"] = "either",
        shared: bool = True,
        manners: Sequence[str] = (),
        manner_epochs: NonNegativeInt = 1,
    ) -> None:
        """
        Args:
            agents: two seats -> arguments of `Agent`, in the order of speaking. A prompt may use `task`, `view` (the
                seat's private half, `task.metadata["views"][seat]`) and `heard` (what the other has just said; empty
                for who begins); a `reply` the same.
            rounds: most messages.
            until: `agreement` = two messages in a row carry the same answer; `answer` = the first seat's carries one.
            decides: whose last answer counts.
            shared: one adapter for all whose own is not named.
            manners: how to put messages, e.g. as JSON; one is drawn for each training episode of the first
                `manner_epochs` epochs, told as a hint and never learned under.
        """
        if len(agents) != 2:
            raise ConfigError(f"team.agents names {len(agents)} seats; a dialogue has two")
        self.agents: dict[str, Agent] = {name: make_agent(name, settings, shared) for name, settings in agents.items()}
        known = ALWAYS | {"view", "heard"}
        for name, agent in self.agents.items():
            if not agent.prompt:
                raise ConfigError(f"agent '{name}' has no prompt")
            check_placeholders(agent.prompt, known, f"agent '{name}', prompt")
            check_placeholders(agent.reply, known, f"agent '{name}', reply")
        self._rounds, self._until, self._decides = rounds, until, decides
        self._manners, self._manner_epochs = tuple(manners), manner_epochs

    def acts(self) -> dict[str, int]:
        """Seat -> messages at most."""
        first, second = self.agents
        return {first: (self._rounds + 1) // 2, second: self._rounds // 2}

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Raise `ConfigError` where a seat is to be shown its view and a task has none for it."""
        for name, agent in self.agents.items():
            if "{{view}}" in agent.prompt + agent.reply:
                missing = [task.id for task in tasks if name not in task.metadata.get("views", {})]
                if missing:
                    raise ConfigError(
                        f"seat '{name}' is shown {{{{view}}}}, but {len(missing)} of {len(tasks)} tasks have none for "
                        f"it (e.g. {missing[0]}): take a task with views, or {{{{task}}}} in its prompt"
                    )

    async def play(self, scene: Scene) -> str:
        """One episode. Returns the last text with an answer, reasoning stripped; without any, the last text."""
        hint, heard = self._manner(scene), ""
        seats, last = list(self.agents.values()), dict[str, Action]()
        said: list[tuple[str, str | None]] = []
        for turn in range(self._rounds):
            seat = seats[turn % 2]
            view = str(scene.task.metadata.get("views", {}).get(seat.name, ""))
            values = {**scene.told(), "view": view, "heard": heard}
            last[seat.name] = await seat.act(scene, values, after=last.get(seat.name), hint="" if turn > 1 else hint)
            heard = handoff(scene, last[seat.name])
            said.append((heard, await asyncio.to_thread(scene.vote, heard)))
            if self._ends(said):
                break
        deciding = said[::2] if self._decides == "first" else said
        return next((text for text, vote in reversed(deciding) if vote is not None), heard)

    def _ends(self, said: Sequence[tuple[str, str | None]]) -> bool:
        vote = said[-1][1]
        if vote is None:
            return False
        if self._until == "answer":
            return len(said) % 2 == 1
        return len(said) > 1 and said[-2][1] == vote

    def _manner(self, scene: Scene) -> str:
        if scene.epoch is None or scene.epoch >= self._manner_epochs or not self._manners:
            return ""
        return random.Random(stable_seed(scene.seed, "manner")).choice(self._manners)
