"""What a run will take, before it is started: `python -m mappa.plan +experiment=mathchat model=qwen3_4b [gpu=h100]`.

Words:
    gpu=NAME       one of a100_40gb, a100, h100, h200, l40s, rtx_3090, rtx_4090 (default h100)
    fill=SHARE     of each completion budget that is really used (default 0.5)
    mfu=SHARE      of the GPU's peak that the update reaches (default 0.2; public LoRA trainers: 0.15 to 0.25)
    anything else  a configuration override, as for mappa.train

Memory comes from the model's config alone: the update runs on tensors without data. Times are estimates from the two
shares above and the GPU's data sheet; generation is taken to be bound by memory bandwidth, at half of its peak.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mappa.checks import objectives
from mappa.command import check_choice, help_text, quiet, run_guarded, split, wants_help
from mappa.config import check, compose_with_origin, make
from mappa.errors import ConfigError
from mappa.play.rollout import acts_of, adapters_of
from mappa.types import BASE

if TYPE_CHECKING:
    from mappa.play.rollout import Team
    from mappa.policy.footprint import Footprint

GIB = 2**30
PROMPT_TOKENS = 512
"""Taken as the prompt of an agent beyond what earlier agents wrote."""
BANDWIDTH_SHARE = 0.5


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
class Work:
    """One epoch, with every agent taking all its turns."""

    episodes: int
    actions: int
    learning_actions: int
    """Of seats that learn; those of the frozen base are not judged and not learned."""
    completion_tokens: int
    trained_tokens: int
    """Prompt and completion of every action that may be learned, in every pass."""


def work(cfg: DictConfig, team: Team, fill: float) -> Work:
    """An upper bound on acts and turns; `fill` on tokens. Each turn's context holds what was written before it."""
    searches = [node.search for node in objectives(cfg.objective) if node.get("search") is not None]
    attempts = max([make(search).attempts for search in searches], default=cfg.data.samples_per_task)
    episodes = cfg.data.tasks_per_epoch * attempts
    passes = cfg.objective.get("passes", 1)
    actions = learning = completion = trained = written = 0
    for seat, acts in acts_of(team).items():
        agent = team.agents[seat]
        learns = agent.adapter != BASE
        for _ in range(acts * agent.max_turns):
            mine = fill * agent.max_tokens
            actions += 1
            learning += learns
            completion += mine
            trained += passes * learns * (PROMPT_TOKENS + written + mine)
            written += mine
    return Work(*(round(episodes * count) for count in (1, actions, learning, completion, trained)))


def memory(cfg: DictConfig, sizes: Footprint, gpu: GPU, team: Team) -> dict[str, float]:
    """GiB by part, and the peaks of the two phases of an epoch."""
    parts = {"base": sizes.base, "adapters": sizes.adapters, "optimizer": sizes.optimizer}
    resident = sum(parts.values())
    acts = acts_of(team).items()
    longest = PROMPT_TOKENS + sum(team.agents[seat].max_tokens * team.agents[seat].max_turns * n for seat, n in acts)
    if "gpu_memory_utilization" in cfg.engine:
        engine = cfg.engine.gpu_memory_utilization * gpu.memory_gib * GIB
        kv = engine - sizes.base - sizes.adapters
        asleep = 0 if cfg.engine.sleep_level else engine
    else:
        kv = engine = sizes.kv_token * longest * min(cfg.engine.get("max_batch", 0), cfg.data.concurrency)
        asleep = 0
    parts |= {"engine, with its KV cache": engine, "KV cache": kv, "activations and gradients": sizes.update}
    parts |= {"peak in the rollout": resident + engine, "peak in the update": resident + asleep + sizes.update}
    return {name: size / GIB for name, size in parts.items()}


def seconds(cfg: DictConfig, sizes: Footprint, gpu: GPU, todo: Work, mfu: float, kv_gib: float) -> dict[str, float]:
    """Of one epoch, by phase."""
    update = 6.0 if cfg.model.gradient_checkpointing else 4.0  # a frozen base has no weight gradients
    credit = cfg.objective.get("credit", {})
    reference = 2.0 if (credit.get("beta") or credit.get("kl_in_loss")) else 0.0
    old = 2.0 if credit and cfg.data.updates_per_epoch > 1 and "max_batch" not in cfg.engine else 0.0
    flops = todo.trained_tokens * sizes.parameters * (update + reference + old)
    context = todo.trained_tokens / (cfg.objective.get("passes", 1) * todo.learning_actions)
    together = max(1.0, min(cfg.data.concurrency, kv_gib * GIB / (sizes.kv_token * context)))
    step_bytes = sizes.base + together * sizes.kv_token * context
    steps = todo.completion_tokens / together
    return {
        "generate": steps * step_bytes / (BANDWIDTH_SHARE * gpu.gb_per_second * 1e9),
        "credit and update": flops / (mfu * gpu.tflops * 1e12),
    }


def plan(argv: list[str]) -> tuple[dict[str, Any], bool]:
    """All numbers, and whether it fits.

    Raises:
        ConfigError: an unknown GPU, a share out of range, or a mistake in the configuration.
        HydraException: the configuration cannot be composed.
    """
    words, overrides, folders = split(argv, {"gpu": "h100", "fill": "0.5", "mfu": "0.2"})
    _check_words(words)
    check_choice(overrides)
    cfg, origin = compose_with_origin([*overrides, "paths.run=."], folders=folders)
    check(cfg, origin)
    model, team = make(cfg.model), make(cfg.team, _convert_="all")
    model.check(weights=False)
    quiet()
    from mappa.policy.footprint import footprint

    gpu, passes = GPUS[words["gpu"]], cfg.objective.get("passes", 1)
    todo = work(cfg, team, float(words["fill"]))
    row = min(cfg.module.micro_batch_tokens, max(1, todo.trained_tokens // (todo.learning_actions * passes)))
    sizes = footprint(
        model, make(cfg.lora), adapters_of(team), cfg.module.micro_batch_tokens, row, cfg.module.chunk_tokens
    )
    gib = memory(cfg, sizes, gpu, team)
    times = seconds(cfg, sizes, gpu, todo, float(words["mfu"]), gib["KV cache"])
    judged = cfg.callbacks.get("judge") is not None
    calls = judged * todo.learning_actions * cfg.trainer.max_epochs * cfg.judge.get("samples", 1)
    numbers = {
        "model": {"parameters": sizes.parameters, "adapter parameters, all agents": sizes.adapter_parameters},
        f"GiB on {words['gpu']} ({gpu.memory_gib:g} GiB)": gib,
        "an epoch, at most": vars(todo),
        "seconds an epoch": times,
        "the run": {
            "epochs": cfg.trainer.max_epochs,
            "hours": sum(times.values()) * cfg.trainer.max_epochs / 3600,
            "judge calls, at most": calls,
            "judge dollars, at most": _dollars(cfg, calls),
        },
    }
    return numbers, max(gib["peak in the rollout"], gib["peak in the update"]) <= gpu.memory_gib


def _dollars(cfg: DictConfig, calls: int) -> float | None:
    """0 for a judge that is no API; None where an API's price is not configured."""
    judge = cfg.judge
    if "price_in" not in judge:
        return 0.0
    if judge.get("price_in") is None or judge.get("price_out") is None:
        return None
    return calls * (judge.expected_tokens_in * judge.price_in + judge.expected_tokens_out * judge.price_out) / 1e6


def _check_words(words: dict[str, str]) -> None:
    if words["gpu"] not in GPUS:
        raise ConfigError(f"gpu={words['gpu']} is unknown; available: {', '.join(sorted(GPUS))}")
    for key in ("fill", "mfu"):
        try:
            good = 0.0 < float(words[key]) <= 1.0
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"{key}={words[key]} must be a number above 0 and at most 1")


def _show(numbers: dict[str, Any], fits: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "", title="Plan")
    for group, values in numbers.items():
        for index, (name, value) in enumerate(values.items()):
            shown = "not known" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
            table.add_row("" if index else group, name.replace("_", " "), shown)
        table.add_section()
    Console().print(table)
    Console().print("it fits" if fits else "it does NOT fit: lower module.micro_batch_tokens, or take a larger GPU")


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    _show(*plan(sys.argv[1:]))


if __name__ == "__main__":
    run_guarded(main)
