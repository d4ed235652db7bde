"""The training entry: `python -m mappa.train +experiment=NAME [overrides]`. Wiring only."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from mappa.config import CONF, check, last_checkpoint, make, quiet, register_resolvers, resume_arguments, run_guarded
from mappa.errors import ConfigError

if TYPE_CHECKING:
    from mappa.engine.base import Engine
    from mappa.learn.data import RolloutDataModule
    from mappa.learn.module import TeamModule


def prepare(cfg: DictConfig) -> None:
    """What concerns the whole process: logging, threads, seed."""
    quiet()
    import lightning
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank > 0:  # what one process says, all have to say
        for name in ("mappa", "callbacks", "sandbox"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    lightning.seed_everything(cfg.seed, verbose=False)


def build(cfg: DictConfig, training: bool = True) -> tuple[RolloutDataModule, TeamModule]:
    """Data module and module of a configuration. Cheap checks come before anything slow.

    Args:
        training: the task must have a training set.

    Raises:
        MappaError: one line that says what is wrong.
    """
    model = make(cfg.model)
    model.check()
    task_set, team = make(cfg.task), make(cfg.team, _convert_="all")
    engine = make(cfg.engine)
    check_strategy(cfg.trainer, engine, list(team.agents))
    if training:
        task_set.train()
    task_set.validation()
    data = make(cfg.data)(task_set=task_set, team=team, engine=engine, pool=make(cfg.sandbox))
    module = make(cfg.module)(model=model, lora=make(cfg.lora), agents=list(team.agents), credit=make(cfg.credit))
    return data, module


def check_strategy(trainer: DictConfig, engine: Engine, agents: list[str]) -> None:
    """Pairs that cannot work.

    Raises:
        ConfigError: says which, and what does.
    """
    strategy = str(OmegaConf.select(trainer, "strategy._target_"))
    if strategy.endswith("ShardedStrategy") and engine.shares_weights:
        raise ConfigError(
            "trainer=fsdp shards the weights that engine=hf generates with; use engine=vllm, or trainer=ddp"
        )
    if strategy.endswith("DeepSpeedStrategy"):
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError("trainer=deepspeed needs DeepSpeed: pip install deepspeed")
        if len(agents) > 1:
            raise ConfigError(
                f"trainer=deepspeed takes one optimizer, this team of {len(agents)} agents has {len(agents)}; "
                "use trainer=ddp or trainer=fsdp"
            )


def train(cfg: DictConfig) -> Path:
    """Train the team that `cfg` describes; returns the run folder."""
    check(cfg)
    checkpoint = last_checkpoint(cfg.resume) if cfg.resume else None
    if checkpoint is not None:
        from mappa.policy.lora import check_adapters

        check_adapters(checkpoint / "adapters", list(cfg.team.agents), cfg.lora.rank)

    from mappa.ranks import peers

    prepare(cfg)
    data, module = build(cfg)
    try:
        module.adapters_from = checkpoint / "adapters" if checkpoint else None
        callbacks = [make(callback, _convert_="all") for callback in cfg.callbacks.values()]
        if checkpoint is not None:
            OmegaConf.save(cfg, Path(cfg.paths.run) / ".hydra" / f"resumed-{checkpoint.name}.yaml")
        trainer = make(cfg.trainer, callbacks=callbacks, logger=make(cfg.logger))
        with peers():
            trainer.fit(module, data, ckpt_path=checkpoint / "trainer.ckpt" if checkpoint else None, weights_only=False)
    finally:
        data.close()
    return Path(cfg.paths.run)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _main(cfg: DictConfig) -> None:
    run_guarded(lambda: _report(cfg))


def _report(cfg: DictConfig) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    folder = train(cfg)
    if rank_zero_only.rank == 0:
        print(folder)  # noqa: T201 the command's last line


def main(argv: list[str] | None = None) -> Any:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them on several lines
    register_resolvers()
    sys.argv[1:] = resume_arguments(sys.argv[1:] if argv is None else argv)
    return _main()


if __name__ == "__main__":
    run_guarded(main)
