"""What the vllm engine adds to vLLM's worker processes. Imported there by name; imports nothing of the trainer."""

from __future__ import annotations

from typing import Any


class UncutLogprobs:
    """Mixed into vLLM's worker class, so its methods can be called through `collective_rpc`."""

    def report_uncut_logprobs(self) -> bool:
        """Report log-probabilities under the temperature but before the top-k/top-p cut.

        Returns:
            False where the model runner's sampler has another shape than vLLM 0.32's V1 one.
        """
        sampler = getattr(getattr(self.model_runner, "sampler", None), "topk_topp_sampler", None)
        if sampler is None:
            return False
        draw = sampler.forward

        def forward(logits: Any, generators: Any, k: Any, p: Any) -> tuple[Any, Any]:
            logprobs = logits.log_softmax(dim=-1, dtype=_float32())
            return draw(logits, generators, k, p)[0], logprobs

        sampler.logprobs_mode = "raw_logprobs"  # the cut ones need not be computed
        sampler.forward = forward
        return True


def _float32() -> Any:
    import torch

    return torch.float32
