"""How much memory the update takes: the real forward and backward pass on tensors that have a shape but no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mappa.policy.attention import unmasked
from mappa.policy.forward import token_logprobs
from mappa.policy.model import Model, materialize

if TYPE_CHECKING:
    from mappa.policy.lora import Adapters


@dataclass(frozen=True)
class Footprint:
    """Sizes in bytes, of one process; gradients and activations at their common peak."""

    parameters: int
    """Of the base model, in numbers."""
    adapter_parameters: int
    """Of all agents together, in numbers."""
    base: int
    adapters: int
    optimizer: int
    """AdamW: two moments for each adapter parameter."""
    update: int
    """Activations, gradients of all agents and logits at the worst moment of a micro-batch."""
    kv_token: int
    """Keys and values of one token in the KV cache."""
    attention_width: int
    """Width of the queries, of all layers together, in numbers."""


class Meter(TorchDispatchMode):
    """Bytes of all tensors made while it is active and still alive: `now`, and the `peak`. And how many operations were
    no mere views: `kernels`."""

    def __init__(self, existing: Sequence[torch.Tensor]) -> None:
        """`existing`: tensors made before, not to be counted when a view of them appears."""
        super().__init__()
        self.now = self.peak = self.kernels = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.kernels += not func.is_view
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def footprint(
    model: Model,
    lora: Callable[..., Adapters],
    agents: Sequence[str],
    micro_batch_tokens: int,
    row_tokens: int,
    chunk_tokens: int,
) -> Footprint:
    """Sizes from the model's config alone; no weights are loaded.

    Args:
        lora: called with (base, agents).
        micro_batch_tokens: tokens of one forward pass.
        row_tokens: tokens of one row.
        chunk_tokens: loss positions whose logits exist at one time.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.path)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, model.dtype), attn_implementation="sdpa")
        model.prepare(base)
        parameters = sum(p.numel() for p in base.parameters())
        size = sum(p.numel() * p.element_size() for p in base.parameters())
        adapters = lora(base, agents)
    trained = [p for agent in agents for p in adapters.parameters(agent)]
    adapter_size = sum(p.numel() * p.element_size() for p in trained)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_each = getattr(torch, model.dtype).itemsize
    return Footprint(
        parameters=parameters,
        adapter_parameters=sum(p.numel() for p in trained),
        base=size,
        adapters=adapter_size,
        optimizer=2 * adapter_size,
        update=_update_peak(adapters, micro_batch_tokens, min(row_tokens, micro_batch_tokens), chunk_tokens)
        + adapter_size * (len(agents) - 1) // len(agents),
        attention_width=config.num_hidden_layers * config.num_attention_heads * width,
        kv_token=2 * config.num_hidden_layers * heads * width * bytes_each,
    )


def _update_peak(adapters: Adapters, tokens: int, row_tokens: int, chunk_tokens: int) -> int:
    """Bytes at the worst moment of one agent's forward and backward pass on `tokens` tokens in rows of `row_tokens`."""
    base = adapters.base
    with FakeTensorMode():
        materialize(adapters.model)  # fake ones, on the CPU, where attention has the kernels that a GPU has
        adapters.model.train()
        adapters.select(adapters.agents[0])
        rows = max(1, tokens // row_tokens)
        ids_BT = torch.zeros((rows, tokens // rows), dtype=torch.long)
        head = base.get_output_embeddings()

        def logprobs() -> torch.Tensor:  # hidden states are not held while gradients are computed, as in the update
            with unmasked(base):
                hidden_BTH = base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
            hidden_NH = hidden_BTH[:, :-1].reshape(-1, hidden_BTH.shape[-1])
            return token_logprobs(hidden_NH, head, ids_BT[:, 1:].reshape(-1), 1.0, chunk_tokens)[0]

        with Meter(list(adapters.model.parameters())) as meter:
            logprobs().sum().backward()
    return meter.peak
