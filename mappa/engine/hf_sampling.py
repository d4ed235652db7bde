"""The hf engine's decoding loop: one batch of prompts -> sampled tokens and their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.cache_utils import Cache

from mappa.engine.base import Sampling
from mappa.engine.hf_kept import Kept, Layers, cut, joined


@dataclass(frozen=True)
class Sampled:
    """By a batch; on the CPU but for the layers."""

    tokens_BT: torch.Tensor
    """Ended rows go on with the first of the stop tokens."""
    logprobs_BT: torch.Tensor
    """float32, natural log under each row's temperature, 1 where it is 0."""
    layers: list[Layers]
    """Each row's keys and values, of its prompt and of all that it said but its last token; more may follow. Empty
    where the model's layers do not keep all tokens."""
    computed: int
    """Positions that went through the model, padding and ended rows included."""


@torch.inference_mode()
def sample(
    model: torch.nn.Module,
    speak: Callable[[Sequence[int]], None],
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    stop_ids: Sequence[int],
    pad_id: int,
    kept: Sequence[Kept | None] = (),
    sources: Sequence[int] = (),
) -> Sampled:
    """Sample one completion per prompt by inverse transform with one uniform number per row and step; greedily at 0.

    Rows that have ended leave the batch, and the KV cache, whenever they are half of it.

    Args:
        speak: told which rows the following passes have.
        kept: what each prompt begins with and need not be computed again; empty = nothing of any.
        sources: the first row with each row's very prompt, adapter and `kept`; empty = each row is its own.
    """
    device = next(model.parameters()).device
    budget = max(s.max_tokens for s in samplings)
    uniforms = torch.from_numpy(np.stack([np.random.default_rng(s.seed).random(budget) for s in samplings])).to(device)
    greedy = torch.tensor([s.temperature == 0 for s in samplings], device=device)
    temperature = torch.tensor([s.temperature or 1.0 for s in samplings], device=device).unsqueeze(1)
    top_p = torch.tensor([s.top_p for s in samplings], device=device).unsqueeze(1)
    tokens_BT = torch.full((len(prompts), budget), stop_ids[0], device=device)
    logprobs_BT = torch.zeros((len(prompts), budget), device=device)
    rows = torch.arange(len(prompts), device=device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    stops = torch.tensor(stop_ids, device=device)
    layers: list[Layers] = [()] * len(prompts)

    def run(input_ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None) -> tuple[torch.Tensor, Cache]:
        """Logits of the last tokens, and the cache with all of them."""
        nonlocal computed
        computed += input_ids.numel()
        width = input_ids.shape[1]
        places = mask.sum(-1, keepdim=True) if width == 1 else mask.cumsum(-1)[:, -width:]
        out = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(places - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], out.past_key_values

    computed, heads = 0, sorted(set(sources)) or list(range(len(prompts)))
    speak(heads)
    held = [kept[row] for row in heads] if kept else [None] * len(heads)
    input_ids, mask = _padded([prompts[row] for row in heads], held, pad_id)
    mask = mask.to(device)
    logits_BV, cache = run(input_ids.to(device), mask, joined(held))
    if len(heads) < len(prompts):
        places = torch.tensor([heads.index(source) for source in sources], device=device)
        cache.batch_select_indices(places)
        logits_BV, mask = logits_BV[places], mask[places]
        speak(range(len(prompts)))
    for step in range(budget):
        logprobs_BV = torch.log_softmax(logits_BV.float() / temperature[rows], dim=-1)
        drawn_B = _draw(logprobs_BV, uniforms[rows, step], top_p[rows])
        token_B = torch.where(greedy[rows], logprobs_BV.argmax(-1), drawn_B)
        token_B = torch.where(alive, token_B, stop_ids[0])
        tokens_BT[rows, step] = token_B
        logprobs_BT[rows, step] = logprobs_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
        alive = alive & ~torch.isin(token_B, stops)
        if step + 1 == budget or not alive.any():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if 2 * int(alive.sum()) <= len(alive):
            _leave(layers, cache, rows, (~alive).nonzero().squeeze(1), mask)
            cache.batch_select_indices(alive.nonzero().squeeze(1))
            rows, token_B, mask = rows[alive], token_B[alive], mask[alive]
            alive = alive[alive]
            speak(rows.tolist())
        logits_BV, cache = run(token_B.unsqueeze(1), mask, cache)
    _leave(layers, cache, rows, torch.arange(len(rows), device=device), mask)
    return Sampled(tokens_BT[:, : step + 1].cpu(), logprobs_BT[:, : step + 1].cpu(), layers, computed)


def _padded(
    prompts: Sequence[Sequence[int]], kept: Sequence[Kept | None], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is still to be computed of each prompt, and the mask of that and of what is kept before it.

    Both parts are padded on the left: all rows grow at the same end.
    """
    before = [0 if one is None else len(one.token_ids) for one in kept]
    past, width = max(before), max(len(prompt) - size for prompt, size in zip(prompts, before, strict=True))
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), past + width), dtype=torch.long)
    for row, (prompt, size) in enumerate(zip(prompts, before, strict=True)):
        start = width - len(prompt) + size
        input_ids[row, start:] = torch.tensor(prompt[size:])
        mask[row, past - size : past] = 1
        mask[row, past + start :] = 1
    return input_ids, mask


def _leave(
    layers: list[Layers], cache: object, rows: torch.Tensor, places: torch.Tensor, mask_BT: torch.Tensor
) -> None:
    """Keep what the cache holds of the rows at these places of the batch."""
    for row, held in zip(rows[places].tolist(), cut(cache, places.tolist(), mask_BT), strict=True):
        layers[row] = held


def _draw(logprobs_BV: torch.Tensor, uniform_B: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Inverse-transform sampling, restricted to each row's nucleus where `top_p` < 1."""
    probs = logprobs_BV.double().exp()
    if bool((top_p < 1).any()):
        ordered, order = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probs = probs.masked_fill(outside.gather(1, order.argsort(-1)), 0.0)
    cdf = probs.cumsum(-1)
    threshold = (uniform_B * cdf[:, -1]).unsqueeze(1)
    return torch.searchsorted(cdf, threshold, right=True).squeeze(1).clamp(max=probs.shape[1] - 1)
