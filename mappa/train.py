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

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from mappa.checkpoint import check_adapters, check_epochs, last_checkpoint
from mappa.checks import Parts, check_learning, check_pairs
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
from mappa.config import CONF, check, check_imported, digest, make, register_resolvers
from mappa.play.rollout import adapters_of

if TYPE_CHECKING:
    from mappa.learn.data import RolloutDataModule
    from mappa.learn.module import TeamModule


_OWN_CONFIGURATION = {"--config-path", "-cp", "--config-name", "-cn", "--info", "-i", "--hydra-help", "--version"}
"""Flags of Hydra with which a run is chosen otherwise, or none is."""


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
    data = make(cfg.data)(
        task_set=parts.task_set,
        team=parts.team,
        engine=make(cfg.engine),
        pool=parts.pool,
        made_with=digest(cfg, "task", "team", "model"),
    )
    module = make(cfg.module)(
        model=parts.model, lora=make(cfg.lora), agents=adapters_of(parts.team), objective=make(cfg.objective)
    )
    return data, module


def train(cfg: DictConfig) -> Path:
    """Train the team that `cfg` describes; returns the run folder."""
    checkpoint = last_checkpoint(cfg.resume) if cfg.resume else None
    parts = cheap_parts(cfg)
    if checkpoint is not None:
        check_epochs(checkpoint, cfg.trainer.max_epochs)
        check_adapters(checkpoint / "adapters", adapters_of(parts.team), cfg.lora, cfg.model.path)

    prepare(cfg)
    from mappa.ranks import peers

    data, module = build(cfg, parts)
    try:
        module.adapters_from = checkpoint / "adapters" if checkpoint else None
        callbacks = [make(callback, _convert_="all") for callback in cfg.callbacks.values() if callback is not None]
        if checkpoint is not None:
            OmegaConf.save(cfg, Path(cfg.paths.run) / ".hydra" / f"resumed-{checkpoint.name}.yaml")
        none = {"limit_train_batches": 0} if cfg.trainer.max_epochs == 0 else {}  # else an epoch would be played
        loggers = [make(logger) for logger in (cfg.get("logger") or {}).values()]
        trainer = make(cfg.trainer, callbacks=callbacks, logger=loggers, **none)
        with peers():
            trainer.fit(module, data, ckpt_path=checkpoint / "trainer.ckpt" if checkpoint else None, weights_only=False)
        for run in [logger.experiment for logger in loggers]:
            if hasattr(run, "finish"):
                run.finish()  # else the next job of this process would go on with it
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
