"""Actions + advantages -> tensors. Only sampled tokens of valid actions carry loss. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mappa.types import Batch, Sample


@dataclass(frozen=True)
class Row:
    """One action ready to be trained; tensors are float32 over its completion tokens."""

    sample: Sample
    advantages: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None

    @property
    def length(self) -> int:
        return len(self.sample.action.prompt_ids) + len(self.sample.action.completion_ids)


def cut_updates(rows: Sequence[Row], updates: int, seed: int) -> list[list[Row]]:
    """Shuffle and divide the rows into `updates` optimizer steps, each agent's rows evenly."""
    steps: list[list[Row]] = [[] for _ in range(updates)]
    agents = sorted({row.sample.action.agent for row in rows})
    for agent in agents:
        mine = [row for row in rows if row.sample.action.agent == agent]
        random.Random(f"{seed}/{agent}").shuffle(mine)
        for index, row in enumerate(mine):
            steps[index % updates].append(row)
    return steps


def cut_micro_batches(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Rows sorted by length and cut so that rows x longest row, padding included, stays within `token_budget` tokens.

    A single row longer than the budget gets a micro-batch of its own.
    """
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: (-r.length, r.sample.action.id)):
        if batches and batches[-1][0].length * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def collate(agent: str, rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad on the right. No rows give an empty micro-batch: one token, no loss, but the same graph."""
    width = max((row.length for row in rows), default=2)
    count = max(len(rows), 1)
    input_ids = torch.full((count, width), pad_id, dtype=torch.long)
    loss_mask = torch.zeros((count, width))
    for index, row in enumerate(rows):
        action = row.sample.action
        ids = (*action.prompt_ids, *action.completion_ids)
        input_ids[index, : len(ids)] = torch.tensor(ids)
        loss_mask[index, len(action.prompt_ids) : len(ids)] = 1.0

    def spread(values: Sequence[Tensor | None]) -> Tensor | None:
        """Completion-length tensors -> (count, width), zero elsewhere; None if any row has none."""
        if any(value is None for value in values):
            return None
        spread_BT = torch.zeros((count, width))
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            start = len(row.sample.action.prompt_ids)
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
