"""The differentiable forward pass: a micro-batch -> log-probabilities of its sampled tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from mappa.lora import Adapters
from mappa.loss import token_logprobs


class Policy(torch.nn.Module):
    """The base with all adapters. Whichever adapter is selected (or none) acts."""

    def __init__(self, adapters: Adapters, temperature: float, chunk_tokens: int) -> None:
        super().__init__()
        self.model = adapters.model
        self._temperature = temperature
        self._chunk_tokens = chunk_tokens

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (float32, under the sampling temperature) and entropies of the tokens where mask is not 0.

        Logits exist only at those positions, a chunk at a time.

        Returns:
            logprobs_N and entropy_N, in row-major order of the mask.
        """
        base = self.model.get_base_model()
        hidden_BTH = base.model(input_ids=input_ids_BT, use_cache=False).last_hidden_state
        wanted = mask_BT[:, 1:] != 0  # the hidden state at t - 1 predicts token t
        return token_logprobs(
            hidden_BTH[:, :-1][wanted],
            base.get_output_embeddings().weight,
            input_ids_BT[:, 1:][wanted],
            self._temperature,
            self._chunk_tokens,
        )
