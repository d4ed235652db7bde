"""Before anything is played: does the engine speak with each agent's own adapter?

A fresh adapter changes nothing, so an engine that ignores adapters, or takes one for another, would not be noticed by
what it says. Here every adapter is disturbed for a moment, and each agent samples a few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mappa.engine.base import Engine, Sampling
from mappa.errors import EngineError
from mappa.ranks import gather
from mappa.types import BASE, Action, Message, Sample

if TYPE_CHECKING:
    from mappa.learn.policies import TeamPolicies
    from mappa.play.loop import EventLoop
    from mappa.policy.chat import Chat

TOKENS, SAMPLES = 12, 2
"""Of each agent."""


def check_voices(engine: Engine, loop: EventLoop, policies: TeamPolicies, chat: Chat, version: int) -> None:
    """Trainer and engine must agree about each agent's tokens, and about no other's as well. Collective.

    Args:
        version: of the adapters.

    Raises:
        EngineError: they do not.
    """
    with policies.adapters.disturbed():
        samples = loop.run(_speak(engine, policies.adapters.agents, policies.temperature, chat, version))
        gaps = policies.gaps([sample for mine in samples.values() for sample in mine])
    found = [line for line in gather(_complaint(samples, gaps, policies.max_engine_gap)) if line is not None]
    if found:
        raise EngineError(found[0])


async def _speak(
    engine: Engine, agents: Sequence[str], temperature: float, chat: Chat, version: int
) -> dict[str, list[Sample]]:
    """What each agent says to the same short prompt."""
    await engine.sync(version)
    await engine.wake()
    prompt_ids = chat.render((Message("user", "1 + 1?"),))
    samples: dict[str, list[Sample]] = {agent: [] for agent in agents}
    for agent in agents:
        for seed in range(SAMPLES):
            said = await engine.generate(agent, prompt_ids, Sampling(TOKENS, temperature, seed=seed))
            action = Action(
                id=f"{agent}/{seed}",
                agent=agent,
                role="",
                turn=0,
                messages=(),
                prompt_ids=prompt_ids,
                completion_ids=said.token_ids,
                logprobs=said.logprobs,
                stop_reason=said.stop_reason,
                text="",
                version=said.version,
            )
            samples[agent].append(Sample(action, "", "", None))
    await engine.sleep()
    return samples


def _complaint(
    samples: Mapping[str, Sequence[Sample]], gaps: Mapping[str, Mapping[str, float]], most: float
) -> str | None:
    """The first agent that speaks with another's voice, or with none that the trainer knows.

    Args:
        gaps: voice (an agent, or the base) -> action id -> nats per token between trainer and engine.
    """
    for agent, mine in samples.items():
        away = {voice: sum(found[s.action.id] for s in mine) / len(mine) for voice, found in gaps.items()}
        nearest = min(away, key=lambda voice: (away[voice], voice != agent))
        if nearest != agent:
            whose = "the base, without an adapter" if nearest == BASE else f"agent '{nearest}'"
            return (
                f"asked for agent '{agent}', the engine speaks as {whose} ({away[nearest]:.3f} nats per token from it, "
                f"{away[agent]:.3f} from '{agent}'): it does not serve the adapters that it was given"
            )
        if away[agent] > most:
            return (
                f"engine and trainer disagree about agent '{agent}' by {away[agent]:.3f} nats per token with an "
                f"adapter that does something (module.max_engine_gap={most:g}): check dtype and lora"
            )
    return None
