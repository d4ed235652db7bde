"""Micro-batches -> tensors. Only sampled tokens of valid actions carry loss. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from operator import itemgetter

import torch
from torch import Tensor

from mappa.learn.packing import Line, lay_out, speaker
from mappa.learn.rows import Row
from mappa.types import Batch


def collate(lines: Sequence[Line], pad_id: int, agents: Collection[str] = ()) -> Batch:
    """Pad on the right, each agent's lines together.

    Args:
        agents: that are part of the graph, too: who has no act here gets a row of two tokens without loss.
    """
    missing = set(agents) - set(map(speaker, lines))
    order = sorted([*((speaker(line), line) for line in lines), *((agent, []) for agent in missing)], key=itemgetter(0))
    layouts = [lay_out(line) for _, line in order]
    width = max((len(layout.ids) for layout in layouts if layout.ids), default=2)
    input_ids = torch.full((len(order), width), pad_id, dtype=torch.long)
    loss_mask = torch.zeros((len(order), width))
    places: list[tuple[int, int, Row]] = []
    for index, ((_, line), layout) in enumerate(zip(order, layouts, strict=True)):
        input_ids[index, : len(layout.ids)] = torch.tensor(layout.ids, dtype=torch.long)
        for start, row in zip(layout.starts, (row for act in line for row in act), strict=True):
            loss_mask[index, start : start + len(row.advantages)] = 1.0
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

    positions = ends = None
    if any(len(line) > 1 for line in lines):
        positions, ends = torch.zeros_like(input_ids), torch.arange(1, width + 1).repeat(len(order), 1)
        for index, layout in enumerate(layouts):
            positions[index, : len(layout.ids)] = torch.tensor(layout.positions, dtype=torch.long)
            ends[index, : len(layout.ids)] = torch.tensor(layout.ends, dtype=torch.long)
    return Batch(
        speakers=tuple(Counter(agent for agent, _ in order).items()),
        sizes=tuple(len(row.advantages) for _, _, row in places),
        input_ids_BT=input_ids,
        loss_mask_BT=loss_mask,
        advantages_BT=spread(lambda row: row.advantages),
        engine_logprobs_BT=spread(lambda row: torch.tensor(row.sample.action.logprobs)),
        old_logprobs_BT=spread(lambda row: row.old_logprobs),
        ref_logprobs_BT=spread(lambda row: row.ref_logprobs),
        positions_BT=positions,
        ends_BT=ends,
    )


def ordered(lines: Sequence[Line]) -> list[Row]:
    """The rows of a micro-batch as `collate` orders them."""
    return [row for line in sorted(lines, key=speaker) for act in line for row in act]


def parts(batch: Batch) -> Iterator[tuple[str, slice, Batch]]:
    """Each agent's part of a micro-batch, and which of the loss positions are its."""
    row = place = action = 0
    tensors = [field.name for field in fields(Batch) if field.name.endswith("_BT")]
    for agent, count in batch.speakers:
        found = {name: getattr(batch, name) for name in tensors}
        mine = {name: None if tensor is None else tensor[row : row + count] for name, tensor in found.items()}
        size = int(mine["loss_mask_BT"].count_nonzero())
        until, held = action, 0
        while held < size:
            held += batch.sizes[until]
            until += 1
        yield agent, slice(place, place + size), Batch(((agent, count),), batch.sizes[action:until], **mine)
        row, place, action = row + count, place + size, until


def at_loss(values_BT: Tensor, batch: Batch, device: torch.device) -> Tensor:
    """The values at the batch's loss positions, in row order: shape (N,)."""
    return values_BT[:, 1:][batch.loss_mask_BT[:, 1:] != 0].to(device)
