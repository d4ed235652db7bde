"""The hf engine's decoding loop: one batch of prompts -> sampled tokens and their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mappa.engine.base import Sampling


@torch.inference_mode()
def sample(
    model: torch.nn.Module,
    speak: Callable[[Sequence[int]], None],
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    stop_ids: Sequence[int],
    pad_id: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one completion per prompt by inverse transform with one uniform number per row and step; greedily at 0.

    Rows that have ended leave the batch, and the KV cache, whenever they are half of it.

    Args:
        speak: told which rows the following passes have.

    Returns:
        tokens_BT and logprobs_BT (float32, natural log under each row's temperature, 1 where it is 0), on the CPU;
        ended rows go on with the first of `stop_ids`.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):  # padded on the left: all rows grow at the same end
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    input_ids, mask = input_ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
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
    cache = None
    speak(range(len(prompts)))
    for step in range(budget):
        out = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        logprobs_BV = torch.log_softmax(out.logits[:, -1].float() / temperature[rows], dim=-1)
        drawn_B = _draw(logprobs_BV, uniforms[rows, step], top_p[rows])
        token_B = torch.where(greedy[rows], logprobs_BV.argmax(-1), drawn_B)
        token_B = torch.where(alive, token_B, stop_ids[0])
        tokens_BT[rows, step] = token_B
        logprobs_BT[rows, step] = logprobs_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
        alive = alive & ~torch.isin(token_B, stops)
        if not alive.any():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
        if 2 * int(alive.sum()) <= len(alive):
            cache.batch_select_indices(alive.nonzero().squeeze(1))
            rows, token_B, mask, positions = rows[alive], token_B[alive], mask[alive], positions[alive]
            alive = alive[alive]
            speak(rows.tolist())
        input_ids = token_B.unsqueeze(1)
    return tokens_BT[:, : step + 1].cpu(), logprobs_BT[:, : step + 1].cpu()


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
