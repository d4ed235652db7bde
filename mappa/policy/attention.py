"""What a model's attention can be told to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_CAUSAL = "mappa_causal_sdpa"


class Packing(StrEnum):
    """How acts can share a row of a micro-batch."""

    ALONE = "alone"
    """Not at all."""
    SHARED = "shared"
    """Those that begin alike, where that makes fewer tokens and no larger squares of attention."""
    FULL = "full"
    """All: attention to what a token does not see costs nothing."""


def packing_of(base: PreTrainedModel) -> Packing:
    """What the model's attention allows: all layers must see whatever a mask says, and nothing but it."""
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        return Packing.ALONE
    allowed = {"sdpa": Packing.SHARED, "eager": Packing.SHARED, "flex_attention": Packing.FULL}
    return allowed.get(_attention(base), Packing.ALONE)


@contextmanager
def unmasked(base: PreTrainedModel) -> Iterator[None]:
    """In the block rows are taken to have padding on the right alone, if any: causal SDPA needs no mask then.

    Else transformers looks at the positions for rows of several texts, and waits for the device to know.
    """
    config = base.config.get_text_config()
    if packing_of(base) is not Packing.SHARED or config._attn_implementation != "sdpa":
        yield
        return
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_CAUSAL, sdpa_attention_forward)  # a kind for which no mask is ever made
    config._attn_implementation = _CAUSAL
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def seen_mask(base: PreTrainedModel, ends_BT: Tensor) -> Any:
    """Token j is seen from the places j <= i < ends[j]: a square of booleans or of numbers, or blocks."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    rows, width = ends_BT.shape
    return ALL_MASK_ATTENTION_FUNCTIONS[_attention(base)](
        rows,
        width,
        width,
        mask_function=lambda b, h, q, kv: (kv <= q) & (q < ends_BT[b, kv]),
        allow_is_causal_skip=False,
        dtype=base.dtype,
        device=ends_BT.device,
    )


def _attention(base: PreTrainedModel) -> str:
    """As transformers names it."""
    return base.config.get_text_config()._attn_implementation
