"""Keys and values of what an agent has seen and said, kept for a context that begins with those very tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer, heads x tokens x features."""


@dataclass(frozen=True)
class Kept:
    """Of one sequence, by one adapter, of one version."""

    agent: str
    token_ids: tuple[int, ...]
    layers: Layers

    def begins(self, agent: str, prompt_ids: tuple[int, ...]) -> bool:
        """Whether that agent's prompt goes on from these tokens."""
        size, end = len(self.token_ids), self.token_ids[-8:]  # others seldom have these there: soon told apart
        if agent != self.agent or size >= len(prompt_ids) or prompt_ids[size - len(end) : size] != end:
            return False
        return prompt_ids[:size] == self.token_ids


def joined(kept: Sequence[Kept | None]) -> Cache | None:
    """A cache for a batch of which each row begins with what is kept, padded on the left; None where nothing is."""
    lengths = [0 if one is None else len(one.token_ids) for one in kept]
    if not any(lengths):
        return None
    cache = DynamicCache()
    for index, example in enumerate(next(one for one in kept if one is not None).layers):
        both = [tensor.new_zeros(len(kept), len(tensor), max(lengths), tensor.shape[-1]) for tensor in example]
        for row, (one, length) in enumerate(zip(kept, lengths, strict=True)):
            for whole, part in zip(both, one.layers[index] if one is not None else (), strict=False):
                whole[row, :, max(lengths) - length :] = part
        cache.update(*both, index)
    return cache


def cut(cache: Cache, rows: Sequence[int], mask_BT: Tensor) -> list[Layers]:
    """What a batch's cache holds of some rows where the mask is not 0; none where layers do not hold all tokens."""
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return [()] * len(rows)
    width = cache.get_seq_length()
    columns = [mask_BT[row, :width].nonzero().squeeze(1) for row in rows]
    return [
        tuple(
            (layer.keys[row].index_select(1, where), layer.values[row].index_select(1, where)) for layer in cache.layers
        )
        for row, where in zip(rows, columns, strict=True)
    ]
