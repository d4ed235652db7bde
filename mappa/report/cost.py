"""What an episode, an epoch and a run take: tokens, memory and time, from the configuration and the model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mappa.play.rollout import acts_of
from mappa.types import BASE

if TYPE_CHECKING:
    from mappa.play.rollout import Team
    from mappa.policy.footprint import Footprint

GIB = 2**30
PROMPT_TOKENS = 512
"""Taken as the prompt of an agent beyond what earlier agents wrote."""
BANDWIDTH_SHARE = 0.5
MFU = 0.2
"""Share of the GPU's peak that the update is taken to reach, if nothing else is said."""
CONTEXT_BYTES = GIB
"""Taken for the CUDA context and the libraries' own workspaces."""
ENGINE_BYTES = 3 * GIB
"""Taken for vLLM's activations, CUDA graphs and workspaces, within its share of the GPU."""


@dataclass(frozen=True)
class GPU:
    """From its data sheet."""

    memory_gib: float
    """Usable."""
    tflops: float
    """Dense bfloat16."""
    gb_per_second: float


GPUS = {
    "a100_40gb": GPU(39.4, 312, 1555),
    "a100": GPU(79.2, 312, 2039),
    "h100": GPU(79.2, 989, 3350),
    "h200": GPU(139.7, 989, 4800),
    "l40s": GPU(44.5, 362, 864),
    "rtx_3090": GPU(23.6, 71, 936),
    "rtx_4090": GPU(23.6, 165, 1008),
}


@dataclass(frozen=True)
class Turn:
    """One action of an episode, in tokens."""

    learns: bool
    """Those of the frozen base are not judged and not learned."""
    context: float
    said: float
    ends: bool
    """The last of its act: its context and words are all tokens of the act, and are learned as one row."""


def turns(team: Team, tool_tokens: int, fill: float) -> list[Turn]:
    """Every agent taking all its turns, each seeing whatever was written before it, tool output included.

    Args:
        fill: share of every completion and tool budget that is used; 1 = at most.
    """
    found, written = [], 0.0
    for seat, acts in acts_of(team).items():
        agent = team.agents[seat]
        for turn in range(1, acts * agent.max_turns + 1):
            said = fill * agent.max_tokens
            found.append(Turn(agent.adapter != BASE, PROMPT_TOKENS + written, said, turn % agent.max_turns == 0))
            written += said + fill * tool_tokens * bool(agent.tool)
    return found


@dataclass(frozen=True)
class Work:
    """One epoch, with every agent taking all its turns."""

    episodes: int
    actions: int
    learning_actions: int
    completion_tokens: int
    trained_tokens: int
    """All tokens of every act that may be learned, in every pass."""


def validation_episodes(cfg: DictConfig, problems: int) -> int:
    """Of the whole run: before training, every so many epochs, and after the last."""
    settings = cfg.callbacks.get("validation")
    if settings is None:
        return 0
    epochs, every = cfg.trainer.max_epochs, settings.every_n_epochs
    times = {epoch for epoch in range(1, epochs + 1) if epoch == epochs or (every and epoch % every == 0)}
    return (len(times) + settings.before) * problems * settings.samples


def memory(cfg: DictConfig, sizes: Footprint, gpu: GPU, longest: int) -> dict[str, float]:
    """GiB by part, and the peaks of the two phases of an epoch."""
    parts = {
        "base": sizes.base,
        "adapters": sizes.adapters,
        "optimizer": sizes.optimizer,
        "CUDA context": CONTEXT_BYTES,
    }
    resident = sum(parts.values())
    if "gpu_memory_utilization" in cfg.engine:
        engine = cfg.engine.gpu_memory_utilization * gpu.memory_gib * GIB
        kv = max(0.0, engine - sizes.base - sizes.adapters - ENGINE_BYTES)
        asleep = 0 if cfg.engine.sleep_level else engine
    else:
        kv = engine = sizes.kv_token * longest * min(cfg.engine.get("max_batch", 0), cfg.data.concurrency)
        asleep = 0
    parts |= {"engine, with its KV cache": engine, "KV cache": kv, "activations and gradients": sizes.update}
    parts |= {"peak in the rollout": resident + engine, "peak in the update": resident + asleep + sizes.update}
    return {name: size / GIB for name, size in parts.items()}


def generation(cfg: DictConfig, sizes: Footprint, gpu: GPU, tokens: float, context: float, kv_gib: float) -> float:
    """Seconds for so many completion tokens at this mean context."""
    together = max(1.0, min(cfg.data.concurrency, kv_gib * GIB / (sizes.kv_token * context)))
    step_bytes = sizes.base + together * sizes.kv_token * context
    return tokens / together * step_bytes / (BANDWIDTH_SHARE * gpu.gb_per_second * 1e9)


def pass_flops(sizes: Footprint, tokens: float, squares: float, again: bool, extra: int = 0) -> float:
    """Of a forward and backward pass. Attention over T tokens: 2 T^2 x layers x width forward, half of it masked.

    Args:
        squares: sum of the squares of the rows' lengths.
        again: layers are computed anew in the backward pass (checkpointing).
        extra: forward passes beside.
    """
    dense = 2.0 * (2 + again + extra) * sizes.parameters  # a frozen base has no weight gradients
    return tokens * dense + 2.0 * (3 + again + extra) * sizes.attention_width * squares


def update_flops(cfg: DictConfig, sizes: Footprint, episode: Sequence[Turn], todo: Work) -> float:
    """Of an epoch."""
    again = bool(cfg.model.gradient_checkpointing)
    credit = cfg.objective.get("credit", {})
    extra = bool(credit.get("beta") or credit.get("kl_in_loss"))  # the reference's forward pass
    extra += bool(credit and cfg.data.updates_per_epoch > 1 and "max_batch" not in cfg.engine)  # of the old
    squares = sum((turn.context + turn.said) ** 2 for turn in episode if turn.learns and turn.ends)
    squares *= todo.episodes * cfg.objective.get("passes", 1)
    return pass_flops(sizes, todo.trained_tokens, squares, again, extra)
