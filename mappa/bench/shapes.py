"""What is measured: models of known shapes with random weights, and the stopwatch."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mappa.config import ASSETS
from mappa.report.cost import GIB, GPUS

if TYPE_CHECKING:
    from mappa.policy.lora import Adapters

_QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
SHAPES: dict[str, dict[str, Any] | None] = {
    "tiny": None,
    "qwen3_0_6b": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "qwen3_4b": _QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
}
"""None: the model that ships with the project."""


PUBLISHED: dict[str, dict[str, float | None]] = {
    "qwen3_0_6b": {"tokens/s": 13300.0},
    "qwen3_4b": {"tokens/s": 6230.0, "share of peak": 0.217, "GiB taken": 23.3},
}
"""prime-rl's own table: LoRA of rank 16, the trainer alone, 16k tokens, one H100."""


@dataclass(frozen=True)
class Setting:
    """Of all measurements of one command."""

    shape: str
    tokens: int
    """Of an update."""
    dtype: str
    attention: str
    """As transformers names it."""
    repeats: int
    device: str

    def machine(self) -> str:
        import torch

        return torch.cuda.get_device_name() if self.device == "cuda" else f"{platform.processor() or 'CPU'}, one thread"

    def adapters(self, agents: Sequence[str], checkpointing: bool | None = None) -> Adapters:
        """A base of this shape, with one adapter of rank 16 an agent that does something.

        Args:
            checkpointing: layers are computed anew in the backward pass; None = on a GPU.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from mappa.policy.lora import Adapters
        from mappa.policy.model import Model

        again = self.device == "cuda" if checkpointing is None else checkpointing
        model = Model(str(ASSETS / "tiny"), self.dtype, self.attention, gradient_checkpointing=again)
        if SHAPES[self.shape] is None:
            base = model.load()
        else:
            config, dtype = AutoConfig.for_model("qwen3", **SHAPES[self.shape]), getattr(torch, self.dtype)
            with torch.device(self.device):
                made = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=self.attention)
                base = model.prepare(made)
        adapters = Adapters(base.to(self.device), agents, rank=16, alpha=32)
        adapters.precision = lambda: torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16")
        adapters.model.train()
        with torch.no_grad():
            for agent in agents:
                for parameter in adapters.parameters(agent):
                    parameter.add_(0.01 * torch.randn_like(parameter))
        return adapters

    def time(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds, processor seconds and peak memory of the fastest of some repeats; one more goes before."""
        import torch

        on_gpu, found = self.device == "cuda", []
        for _ in range(self.repeats + 1):
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            wall, cpu = time.monotonic(), time.process_time()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            numbers = {"seconds": time.monotonic() - wall, "processor seconds": time.process_time() - cpu}
            found.append(numbers | ({"GiB taken": torch.cuda.max_memory_allocated() / GIB} if on_gpu else {}))
        return min(found[1:], key=lambda one: one["seconds" if on_gpu else "processor seconds"])

    def peak(self) -> float | None:
        """Operations a second by this GPU's data sheet; None where it is not known."""
        name = self.machine().lower().replace(" ", "_")
        peaks = [gpu.tflops for key, gpu in GPUS.items() if self.device == "cuda" and key in name]
        return peaks[0] * 1e12 if peaks else None

    def share_of_peak(self, flops: float, seconds: float) -> float | None:
        """Of this GPU's data sheet; None where it is not known."""
        peak = self.peak()
        return None if peak is None else flops / seconds / peak
