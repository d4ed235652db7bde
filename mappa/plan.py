"""What a run will take, before it is started: `python -m mappa.plan +experiment=mathchat model=qwen3_4b [gpu=h100]`.

Words:
    gpu=NAME       one of a100_40gb, a100, h100, h200, l40s, rtx_3090, rtx_4090 (default h100)
    fill=SHARE     of each completion budget that is really used (default 0.5)
    mfu=SHARE      of the GPU's peak that the update reaches (default 0.2; public LoRA trainers: 0.15 to 0.25)
    problems=N     held-out problems of one validation (default: counted in the task's sets)
    anything else  a configuration override, as for mappa.train

Memory comes from the model's config alone: the update runs on tensors without data, for the longest row that all
budgets allow. Times are estimates from the two shares above and the GPU's data sheet; generation is taken to be bound
by memory bandwidth, at half of its peak.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig

from mappa.checks import objectives
from mappa.command import check_choice, help_text, quiet, run_guarded, split, wants_help
from mappa.config import check, compose_with_origin, make
from mappa.errors import ConfigError, TaskError
from mappa.play.rollout import adapters_of
from mappa.report.cost import GPU, GPUS, MFU, Turn, Work, generation, memory, turns, update_flops, validation_episodes

LONGEST = "longest row learned, at most"


def work(cfg: DictConfig, episode: Sequence[Turn]) -> Work:
    searches = [node.search for node in objectives(cfg.objective) if node.get("search") is not None]
    attempts = max([make(search).attempts for search in searches], default=cfg.data.samples_per_task)
    episodes = cfg.data.tasks_per_epoch * attempts
    learned = [turn for turn in episode if turn.learns]
    trained = cfg.objective.get("passes", 1) * sum(turn.context + turn.said for turn in learned if turn.ends)
    counts = (1, len(episode), len(learned), sum(turn.said for turn in episode), trained)
    return Work(*(round(episodes * count) for count in counts))


def plan(argv: list[str]) -> tuple[dict[str, Any], bool]:
    """All numbers, and whether it fits."""
    numbers, problem = estimate(argv)
    return numbers, problem is None


def estimate(argv: list[str]) -> tuple[dict[str, Any], str | None]:
    """All numbers, and what to change if it does not fit.

    Raises:
        ConfigError: an unknown GPU, a share out of range, or a mistake in the configuration.
        HydraException: the configuration cannot be composed.
    """
    words, overrides, folders = split(argv, {"gpu": "h100", "fill": "0.5", "mfu": str(MFU), "problems": None})
    _check_words(words)
    check_choice(overrides)
    cfg, origin = compose_with_origin([*overrides, "paths.run=."], folders=folders)
    check(cfg, origin)
    model, team = make(cfg.model), make(cfg.team, _convert_="all")
    model.check(weights=False)
    quiet()
    from mappa.policy.footprint import footprint

    gpu, fill = GPUS[words["gpu"]], float(words["fill"])
    full, episode = (turns(team, cfg.data.tool_tokens, share) for share in (1.0, fill))
    todo = work(cfg, episode)
    context = model.context_length() or math.inf
    longest = int(min(context, max(turn.context + turn.said for turn in full)))
    learned = int(min(context, max(turn.context + turn.said for turn in full if turn.learns)))
    together = max([2 if "beta" in node else 1 for node in objectives(cfg.objective)])  # a pair stays together
    tokens = max(cfg.module.micro_batch_tokens, together * learned)
    sizes = footprint(model, make(cfg.lora), adapters_of(team), tokens, learned, cfg.module.chunk_tokens)
    gib = memory(cfg, sizes, gpu, longest)
    mean = statistics.fmean(turn.context + turn.said for turn in episode if turn.learns)
    speed = partial(generation, cfg, sizes, gpu, context=mean, kv_gib=gib["KV cache"])
    flops = update_flops(cfg, sizes, episode, todo)
    times = {
        "generate": speed(tokens=todo.completion_tokens),
        "credit and update": flops / (float(words["mfu"]) * gpu.tflops * 1e12),
    }
    problems, why = held_out(cfg, words["problems"])
    held = None if problems is None else validation_episodes(cfg, problems)
    validating = None if held is None else speed(tokens=held * todo.completion_tokens / todo.episodes) / 3600
    training = sum(times.values()) * cfg.trainer.max_epochs / 3600
    judged = cfg.callbacks.get("judge") is not None
    calls = judged * todo.learning_actions * cfg.trainer.max_epochs * cfg.judge.get("request", {}).get("samples", 1)
    numbers = {
        "model": {"parameters": sizes.parameters, "adapter parameters, all agents": sizes.adapter_parameters},
        f"GiB on {words['gpu']} ({gpu.memory_gib:g} GiB)": gib,
        "tokens": {LONGEST: learned, "micro-batch": tokens},
        f"an epoch, {fill:.0%} of each budget used": vars(todo),
        "seconds an epoch": times,
        "the run": {
            "epochs": cfg.trainer.max_epochs,
            "validation episodes": why if held is None else held,
            "hours of training": training,
            "hours of validation": validating,
            "hours": None if validating is None else training + validating,
            "judge calls, at most": calls,
            "judge dollars, at most": _dollars(cfg, calls),
            "judge": _priced(cfg),
        },
    }
    fits = max(gib["peak in the rollout"], gib["peak in the update"]) <= gpu.memory_gib
    return numbers, None if fits else advice(cfg, numbers, gpu)


def held_out(cfg: DictConfig, said: str | None) -> tuple[int | None, str]:
    """Problems of one validation, all sets together, and why they are not known where the sets cannot be read."""
    settings = cfg.callbacks.get("validation")
    if settings is None:
        return 0, ""
    if said is not None:
        return int(said), ""
    try:
        sets = make(cfg.task).validation().values()
    except (TaskError, ConfigError) as error:
        return None, f"not known, say problems=N ({error})"
    return sum(len(tasks[: settings.limit]) for tasks in sets), ""


def advice(cfg: DictConfig, numbers: dict[str, Any], gpu: GPU) -> str:
    """What to change where it does not fit: the phase that is too big has its own remedy."""
    gib = next(values for values in numbers.values() if "KV cache" in values)
    tokens, found = numbers["tokens"], []
    if gib["peak in the update"] > gpu.memory_gib:
        if tokens["micro-batch"] == cfg.module.micro_batch_tokens and tokens["micro-batch"] > tokens[LONGEST]:
            found.append("lower module.micro_batch_tokens")
        else:
            found.append("shorten the longest row (max_tokens and max_turns of the agents, data.tool_tokens)")
        found += [] if cfg.model.gradient_checkpointing else ["set model.gradient_checkpointing=true"]
        if cfg.engine.get("sleep_level") == 0:
            found.append("set engine.sleep_level=1")
    if gib["peak in the rollout"] > gpu.memory_gib:
        shared = "gpu_memory_utilization" in cfg.engine
        found.append("lower engine.gpu_memory_utilization" if shared else "lower engine.max_batch, or take engine=vllm")
    return f"it does NOT fit: {', or '.join(found)}, or take a larger GPU"


def _dollars(cfg: DictConfig, calls: int) -> float | None:
    """0 for a judge that is no API; None where an API's price is not known."""
    if "money" not in cfg.judge:
        return 0.0
    money = make(cfg.judge.money)
    prices = money.prices(cfg.judge.model, cfg.judge.base_url)
    return None if prices is None else calls * prices.cost(money.expected_tokens_in, money.expected_tokens_out)


def _priced(cfg: DictConfig) -> str:
    """Whose price the dollars are counted by: one model's price must not be taken for another's."""
    if "money" not in cfg.judge:
        return "no API"
    prices = make(cfg.judge.money).prices(cfg.judge.model, cfg.judge.base_url)
    if prices is None:
        return f"{cfg.judge.model}: set judge.money.price_in and judge.money.price_out"
    return f"{cfg.judge.model} at {prices.tokens_in:g} and {prices.tokens_out:g} dollars a million tokens in and out"


def _check_words(words: dict[str, str]) -> None:
    if words["gpu"] not in GPUS:
        raise ConfigError(f"gpu={words['gpu']} is unknown; available: {', '.join(sorted(GPUS))}")
    if words["problems"] is not None and not words["problems"].isdigit():
        raise ConfigError(f"problems={words['problems']} must be a whole number")
    for key in ("fill", "mfu"):
        try:
            good = 0.0 < float(words[key]) <= 1.0
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"{key}={words[key]} must be a number above 0 and at most 1")


def _show(numbers: dict[str, Any], problem: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "", title="Plan")
    for group, values in numbers.items():
        for index, (name, value) in enumerate(values.items()):
            table.add_row("" if index else group, name.replace("_", " "), _shown(value))
        table.add_section()
    Console().print(table)
    Console().print(problem or "it fits")


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    _show(*estimate(sys.argv[1:]))


if __name__ == "__main__":
    run_guarded(main)
