"""Actions + advantages -> tensors. Only sampled tokens of valid actions carry loss. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from mappa.types import Batch, Sample

FEW_ROWS = 8
"""Of an optimizer step; fewer make a noisy gradient."""
WASTE = 1.1
"""Tokens computed over tokens needed, at most, in a micro-batch of several rows."""


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


def cut_micro_batches(
    rows: Sequence[Row], token_budget: int, by_agent: bool = True, mix: bool = True
) -> list[list[Act]]:
    """Acts sorted by length and cut so that acts x longest act, padding included, stays within `token_budget` tokens,
    and within `WASTE` of the tokens that there are.

    A single unit longer than the budget gets a micro-batch of its own.

    Args:
        by_agent: as of `acts`.
        mix: agents share micro-batches.
    """
    batches: list[list[Act]] = []
    width = needed = 0
    parts = units(rows) if by_agent else [[act] for act in acts(rows, by_agent=False)]
    order = sorted(parts, key=lambda unit: (mix or unit[0][0].agent, -_longest(unit), unit[0][0].sample.action.id))
    for unit in order:
        tokens = sum(act[-1].length for act in unit)
        computed = width * (len(batches[-1]) + len(unit)) if batches else 0
        alike = bool(batches) and (mix or batches[-1][0][0].agent == unit[0][0].agent)
        if alike and computed <= min(token_budget, WASTE * (needed + tokens)):
            batches[-1] += unit
            needed += tokens
        else:
            batches.append(list(unit))
            width, needed = _longest(unit), tokens
    return batches


def _longest(unit: Sequence[Act]) -> int:
    return max(act[-1].length for act in unit)


def collate(acts: Sequence[Act], pad_id: int, agents: Collection[str] = ()) -> Batch:
    """Pad on the right, each agent's acts together.

    Args:
        agents: that are part of the graph, too: who has no act here gets a row of two tokens without loss.
    """
    missing = set(agents) - {act[0].agent for act in acts}
    order = sorted([*((act[0].agent, act) for act in acts), *((agent, []) for agent in missing)], key=itemgetter(0))
    width = max((act[-1].length for act in acts), default=2)
    input_ids = torch.full((len(order), width), pad_id, dtype=torch.long)
    loss_mask = torch.zeros((len(order), width))
    places: list[tuple[int, int, Row]] = []
    for index, (_, act) in enumerate(order):
        if act:
            input_ids[index, : act[-1].length] = torch.tensor(act[-1].ids)
        for row in act:
            start = len(row.sample.action.context_ids)
            loss_mask[index, start : row.length] = 1.0
            places.append((index, start, row))

    def spread(value: Callable[[Row], Tensor | None]) -> Tensor | None:
        """Completion-length tensors -> (count, width), zero elsewhere; None if any row has none."""
        values = [value(row) for _, _, row in places]
        if any(value is None for value in values):
            return None
        spread_BT = torch.zeros((len(order), width))
        for (index, start, _), found in zip(places, values, strict=True):
            spread_BT[index, start : start + len(found)] = found
        return spread_BT

    return Batch(
        speakers=tuple(Counter(agent for agent, _ in order).items()),
        input_ids_BT=input_ids,
        loss_mask_BT=loss_mask,
        advantages_BT=spread(lambda row: row.advantages),
        engine_logprobs_BT=spread(lambda row: torch.tensor(row.sample.action.logprobs)),
        old_logprobs_BT=spread(lambda row: row.old_logprobs),
        ref_logprobs_BT=spread(lambda row: row.ref_logprobs),
    )


def ordered(acts: Sequence[Act]) -> list[Row]:
    """The rows of a micro-batch as `collate` orders them."""
    return [row for act in sorted(acts, key=lambda act: act[0].agent) for row in act]


def parts(batch: Batch) -> Iterator[tuple[str, slice, Batch]]:
    """Each agent's part of a micro-batch, and which of the loss positions are its."""
    row = place = 0
    tensors = [field.name for field in fields(Batch) if field.name != "speakers"]
    for agent, count in batch.speakers:
        found = {name: getattr(batch, name) for name in tensors}
        mine = {name: None if tensor is None else tensor[row : row + count] for name, tensor in found.items()}
        part = Batch(speakers=((agent, count),), **mine)
        size = int(part.loss_mask_BT[:, 1:].count_nonzero())
        yield agent, slice(place, place + size), part
        row, place = row + count, place + size


def needed_tokens(rows: Sequence[Row]) -> int:
    """Each once: those of every act."""
    return sum(act[-1].length for act in acts(rows))


def computed_tokens(batches: Sequence[Sequence[Act]]) -> int:
    """Of one forward pass over micro-batches, padding included."""
    return sum(len(batch) * _longest(batch) for batch in batches)


def at_loss(values_BT: Tensor, batch: Batch, device: torch.device) -> Tensor:
    """The values at the batch's loss positions, in row order: shape (N,)."""
    return values_BT[:, 1:][batch.loss_mask_BT[:, 1:] != 0].to(device)


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
