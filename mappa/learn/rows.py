"""What is learned: actions with their advantages, the acts that they make, and the steps that they are spread over."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from mappa.types import Sample

FEW_ROWS = 8
"""Of an optimizer step; fewer make a noisy gradient."""


@dataclass(frozen=True)
class Row:
    """One action ready to be trained; tensors are float32 over its completion tokens."""

    sample: Sample
    advantages: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    group: str = ""
    """Rows of one name are learned in the same micro-batch, in their order; empty = each by itself, or with its act."""

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return (*self.sample.action.context_ids, *self.sample.action.completion_ids)

    @property
    def length(self) -> int:
        return len(self.sample.action.context_ids) + len(self.sample.action.completion_ids)

    @property
    def agent(self) -> str:
        return self.sample.action.agent

    @property
    def episode(self) -> str:
        """Its id; ids sort in the order in which one process plays them."""
        return self.sample.action.id.partition("/")[0]


Act = list[Row]
"""Turns whose tokens go on from one another, in their order: the last one's tokens are all there are."""


def acts(rows: Sequence[Row], by_agent: bool = True) -> list[Act]:
    """Each turn with those that it goes on from, so that no token is computed twice. Rows of a group stay alone.

    Args:
        rows: of an episode in the order in which they were said.
        by_agent: an act is one agent's; False where all speak with the same voice.
    """
    found: list[Act] = []
    of_episode: dict[tuple[str, str], list[Act]] = {}
    for row in rows:
        there = [] if row.group else of_episode.setdefault((row.episode, row.agent if by_agent else ""), [])
        context_ids = row.sample.action.context_ids
        act = next((act for act in there if context_ids[: act[-1].length] == act[-1].ids), None)
        if act is None:
            act = []
            found.append(act)
            there.append(act)
        act.append(row)
    return found


def units(rows: Sequence[Row]) -> list[list[Act]]:
    """Acts that are learned together: those of one group, else each by itself; in the order of their first."""
    found: dict[str, list[Act]] = {}
    for index, act in enumerate(acts(rows)):
        found.setdefault(act[0].group or f"#{index}", []).append(act)
    return list(found.values())


def cut_updates(
    rows: Sequence[Row],
    updates: int,
    seed: int,
    passes: int = 1,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    rank: int = 0,
) -> list[list[Row]]:
    """Shuffle and divide the rows of all ranks into `updates` optimizer steps, each agent's acts evenly. Collective.

    Args:
        passes: over the rows, each newly shuffled and of as many steps; divides `updates`.

    Returns:
        this rank's rows of each step; together with the other ranks' they are those of one process.
    """
    steps: list[list[Row]] = [[] for _ in range(updates)]
    each = updates // passes
    agents = {row.agent for row in rows}
    mine = {agent: units([row for row in rows if row.agent == agent]) for agent in agents}
    held = gather({agent: [unit[0][0].episode for unit in found] for agent, found in mine.items()})
    for agent in sorted(set().union(*held)):
        everyone = sorted((e, owner, i) for owner, part in enumerate(held) for i, e in enumerate(part.get(agent, [])))
        for number in range(passes):
            order = list(everyone)
            random.Random(f"{seed}/{agent}" + (f"/{number}" if number else "")).shuffle(order)
            for place, (_, owner, index) in enumerate(order):
                if owner == rank:
                    steps[number * each + place % each] += [row for act in mine[agent][index] for row in act]
    return steps


def needed_tokens(rows: Sequence[Row]) -> int:
    """Each once: those of every act."""
    return sum(act[-1].length for act in acts(rows))


def row_warnings(counts: Mapping[str, int], agents: Sequence[str], steps: float, anew: bool) -> list[str]:
    """One line for what leaves too little to learn from.

    Args:
        counts: agent -> rows of an epoch, of all ranks.
        steps: over which one pass spreads them.
        anew: the optimizer knows nothing but these rows.
    """
    if not any(counts.values()):
        return ["nothing was kept to learn from; no update is made"]
    lines = []
    left_out = [agent for agent in agents if not counts.get(agent)]
    if left_out:
        lines.append(f"nothing of {', '.join(left_out)} was kept; no update for it")
    fewest = min((agent for agent in agents if counts.get(agent)), key=lambda agent: counts[agent])
    if anew and counts[fewest] < FEW_ROWS * steps:
        lines.append(
            f"{fewest} learns from {counts[fewest] / steps:.1f} actions a step; for more, raise data.tasks_per_epoch "
            "or lower data.updates_per_epoch"
        )
    return lines
