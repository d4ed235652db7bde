"""The differentiable forward pass: a micro-batch -> log-probabilities of its sampled tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mappa.policy.attention import seen_mask, unmasked
from mappa.policy.lora import Adapters


class Policy(torch.nn.Module):
    """The base with all adapters. Whichever are selected (or none) act."""

    def __init__(self, adapters: Adapters, temperature: float, chunk_tokens: int) -> None:
        super().__init__()
        self.model = adapters.model
        self.temperature = temperature
        """Of the log-probabilities."""
        self._chunk_tokens = chunk_tokens

    def forward(
        self, input_ids_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor | None = None, ends_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (float32, under the sampling temperature) and entropies of the tokens where mask is not 0.

        Logits exist only at those positions, a chunk at a time.

        Args:
            mask_BT: best on the host, so that the device need not be waited for.
            positions_BT, ends_BT: of rows of several acts; see `Batch`.

        Returns:
            logprobs_N and entropy_N, in row-major order of the mask.
        """
        base = self.model.get_base_model()
        seen = {} if ends_BT is None else {"position_ids": positions_BT, "attention_mask": seen_mask(base, ends_BT)}
        with unmasked(base):
            hidden_BTH = base.base_model(input_ids=input_ids_BT, use_cache=False, **seen).last_hidden_state
        row_N, t_N = mask_BT[:, 1:].nonzero(as_tuple=True)  # the hidden state at t - 1 predicts token t
        before_N = (row_N * mask_BT.shape[1] + t_N).to(hidden_BTH.device)
        return token_logprobs(
            hidden_BTH.flatten(0, 1).index_select(0, before_N),
            base.get_output_embeddings(),
            input_ids_BT.flatten().index_select(0, before_N + 1),
            self.temperature,
            self._chunk_tokens,
        )


def token_logprobs(
    hidden_NH: Tensor, head: Callable[[Tensor], Tensor], targets_N: Tensor, temperature: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets_N` and entropies, without ever holding all N x V logits.

    Logits of at most `chunk_tokens` positions exist at a time, in the backward pass too (they are recomputed there).

    Args:
        head: hidden states -> logits.

    Returns:
        logprobs_N (natural log, under `temperature`, float32, differentiable) and entropy_N (nats, detached).
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float() / temperature
        log_norm = logits.logsumexp(-1)
        logprobs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - log_norm
        with torch.no_grad():
            entropy = log_norm - (torch.softmax(logits, -1) * logits).sum(-1)
        return logprobs, entropy

    parts = [
        checkpoint(chunk, hidden, targets, use_reentrant=False) if torch.is_grad_enabled() else chunk(hidden, targets)
        for hidden, targets in zip(hidden_NH.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def float32_linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    """A linear layer in float32, whatever the precision around it."""
    with torch.autocast(x.device.type, enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        return torch.nn.functional.linear(x.float(), layer.weight.float(), bias)
