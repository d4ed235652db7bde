"""Generators answer, critics revise in view of the others' answers, the majority decides (arXiv 2501.05707)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mappa.errors import ConfigError
from mappa.play.agent import ALWAYS, Agent, handoff, make_agent
from mappa.play.scene import Scene
from mappa.seed import stable_seed
from mappa.select.consensus import CRITIC, GENERATOR, SUMMARISER
from mappa.text import check_placeholders
from mappa.types import Action

if TYPE_CHECKING:
    from pydantic import PositiveInt

log = logging.getLogger(__name__)
_REPLY = "These are the answers of others to the same problem:\n{{heard}}\n\nUse them to give an updated answer."


class Debate:
    r"""Chain k is generator k, then critic k in every further round, who goes on from the last answer of its chain.

    Seats are `generator_1`, ..., `critic_1`, ..., and `summariser`. The answer is the text of the first chain whose
    last answer is a most frequent one; between equally frequent answers the episode's seed decides (departure: the
    authors' code takes the largest string, the paper says at random). Where no answer can be read it is the last text.
    """

    def __init__(
        self,
        size: PositiveInt,
        rounds: PositiveInt,
        generator: Mapping[str, Any],
        critic: Mapping[str, Any] | None = None,
        summariser: Mapping[str, Any] | None = None,
        reply: str = _REPLY,
        shared: bool = False,
    ) -> None:
        """
        Args:
            size: chains.
            rounds: 1 = the generators alone, and the vote.
            generator, critic, summariser: arguments of `Agent`. Prompts may use `task` and `seat` (the speaker's
                name); a critic's also `mine`, the last answer of its chain, and `heard`; a summariser's `others`, the
                last answers of the other chains. A critic without a `prompt` goes on from the very tokens of its
                chain's last answer, with `reply`.
            critic: None = generators revise what they said.
            summariser: None = the others' answers are quoted.
            reply: what a critic is told; may use the same as its prompt.
            shared: one adapter for all seats whose own is not named.
        """
        if size % 2 == 0:
            log.warning("team.size=%d is even: where the vote is split in halves, chance decides", size)
        if rounds == 1 and (critic is not None or summariser is not None):
            log.warning("team.rounds=1: the vote alone; critics and summariser do not speak")
        names = range(1, size + 1)
        self._rounds = rounds
        self._generators = [make_agent(f"{GENERATOR}_{k}", {"reply": reply} | dict(generator), shared) for k in names]
        self._critics = self._generators
        if rounds > 1 and critic is not None:
            self._critics = [make_agent(f"{CRITIC}_{k}", {"reply": reply} | dict(critic), shared) for k in names]
        self._summariser = make_agent(SUMMARISER, summariser) if rounds > 1 and summariser is not None else None
        seats = [*self._generators, *self._critics, *([self._summariser] if self._summariser else [])]
        self.agents: dict[str, Agent] = {seat.name: seat for seat in seats}
        self._check()

    def _check(self) -> None:
        known = ALWAYS | {"seat"}
        said = known | {"mine", "heard"}
        for agent in self._generators:
            if not agent.prompt:
                raise ConfigError("team.generator.prompt is missing; it asks for the first answer")
            check_placeholders(agent.prompt, known, "team.generator, prompt")
            check_placeholders(agent.reply, said, "team, reply")
        for agent in self._critics if self._critics is not self._generators else ():
            check_placeholders(agent.reply, said, "team.critic, reply")
            check_placeholders(agent.prompt, said, "team.critic, prompt")
        if self._summariser is not None:
            check_placeholders(self._summariser.prompt, known | {"others"}, "team.summariser, prompt")

    def acts(self) -> dict[str, int]:
        """Seat -> times it acts in an episode."""
        acts = Counter(agent.name for agent in self._generators)
        for _ in range(1, self._rounds):
            acts.update(agent.name for agent in self._critics)
            if self._summariser is not None:
                acts[self._summariser.name] += len(self._critics)
        return dict(acts)

    async def play(self, scene: Scene) -> str:
        """One episode. Returns a text that gives the majority's answer, reasoning stripped."""
        values = scene.told()
        said = [await agent.act(scene, values | {"seat": agent.name}) for agent in self._generators]
        for _ in range(1, self._rounds):
            texts = [handoff(scene, action) for action in said]
            said = [await self._revise(scene, values, said, texts, k) for k in range(len(said))]
        return await asyncio.to_thread(majority, [handoff(scene, action) for action in said], scene)

    async def _revise(
        self, scene: Scene, values: Mapping[str, str], said: Sequence[Action], texts: Sequence[str], k: int
    ) -> Action:
        agent, others = self._critics[k], [text for j, text in enumerate(texts) if j != k]
        heard = "\n".join(others)
        if self._summariser is not None and others:
            seat = {"seat": self._summariser.name, "others": heard}
            heard = handoff(scene, await self._summariser.act(scene, {**values, **seat}))
        told = {**values, "seat": agent.name, "mine": texts[k], "heard": heard}
        starts_anew = agent.prompt and agent is not self._generators[k]
        return await agent.act(scene, told, after=None if starts_anew else said[k])


def majority(texts: Sequence[str], scene: Scene) -> str:
    """The first text that gives the most frequent answer; ties by the episode's seed; no answer at all: the last."""
    votes = [scene.vote(text) for text in texts]
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return texts[-1]
    most = max(counts.values())
    tied = [vote for vote, count in counts.items() if count == most]
    return texts[votes.index(random.Random(stable_seed(scene.seed, "tie")).choice(tied))]
