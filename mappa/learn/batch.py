"""Actions + advantages -> tensors. Only sampled tokens of valid actions carry loss. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mappa.types import Batch, Sample

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
    """Rows of one name are learned in the same micro-batch, in their order; empty = each by itself."""

    @property
    def length(self) -> int:
        return len(self.sample.action.context_ids) + len(self.sample.action.completion_ids)

    @property
    def episode(self) -> str:
        """Its id; ids sort in the order in which one process plays them."""
        return self.sample.action.id.partition("/")[0]


def cut_updates(
    rows: Sequence[Row],
    updates: int,
    seed: int,
    passes: int = 1,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    rank: int = 0,
) -> list[list[Row]]:
    """Shuffle and divide the rows of all ranks into `updates` optimizer steps, each agent's rows evenly. Collective.

    Args:
        passes: over the rows, each newly shuffled and of as many steps; divides `updates`.

    Returns:
        this rank's rows of each step; together with the other ranks' they are those of one process.
    """
    steps: list[list[Row]] = [[] for _ in range(updates)]
    each = updates // passes
    mine = {agent: groups([row for row in rows if row.sample.action.agent == agent]) for agent in _agents(rows)}
    held = gather({agent: [group[0].episode for group in found] for agent, found in mine.items()})
    for agent in sorted(set().union(*held)):
        everyone = sorted((e, owner, i) for owner, part in enumerate(held) for i, e in enumerate(part.get(agent, [])))
        for number in range(passes):
            order = list(everyone)
            random.Random(f"{seed}/{agent}" + (f"/{number}" if number else "")).shuffle(order)
            for place, (_, owner, index) in enumerate(order):
                if owner == rank:
                    steps[number * each + place % each] += mine[agent][index]
    return steps


def _agents(rows: Sequence[Row]) -> set[str]:
    return {row.sample.action.agent for row in rows}


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that belong together, in the order of their first."""
    found: dict[str, list[Row]] = {}
    for index, row in enumerate(rows):
        found.setdefault(row.group or f"#{index}", []).append(row)
    return list(found.values())


def cut_micro_batches(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Rows sorted by length and cut so that rows x longest row, padding included, stays within `token_budget` tokens.

    A single group longer than the budget gets a micro-batch of its own.
    """
    batches: list[list[Row]] = []
    width = 0
    for group in sorted(groups(rows), key=lambda group: (-_longest(group), group[0].sample.action.id)):
        if batches and width * (len(batches[-1]) + len(group)) <= token_budget:
            batches[-1] += group
        else:
            batches.append(list(group))
            width = _longest(group)
    return batches


def _longest(rows: Sequence[Row]) -> int:
    return max(row.length for row in rows)


def collate(agent: str, rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad on the right. No rows give an empty micro-batch: one token, no loss, but the same graph."""
    width = max((row.length for row in rows), default=2)
    count = max(len(rows), 1)
    input_ids = torch.full((count, width), pad_id, dtype=torch.long)
    loss_mask = torch.zeros((count, width))
    for index, row in enumerate(rows):
        action = row.sample.action
        ids = (*action.context_ids, *action.completion_ids)
        input_ids[index, : len(ids)] = torch.tensor(ids)
        loss_mask[index, len(action.context_ids) : len(ids)] = 1.0

    def spread(values: Sequence[Tensor | None]) -> Tensor | None:
        """Completion-length tensors -> (count, width), zero elsewhere; None if any row has none."""
        if any(value is None for value in values):
            return None
        spread_BT = torch.zeros((count, width))
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            start = len(row.sample.action.context_ids)
            spread_BT[index, start : start + len(value)] = value
        return spread_BT

    return Batch(
        agent=agent,
        input_ids_BT=input_ids,
        loss_mask_BT=loss_mask,
        advantages_BT=spread([row.advantages for row in rows]),
        engine_logprobs_BT=spread([torch.tensor(row.sample.action.logprobs) for row in rows]),
        old_logprobs_BT=spread([row.old_logprobs for row in rows]),
        ref_logprobs_BT=spread([row.ref_logprobs for row in rows]),
    )


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
