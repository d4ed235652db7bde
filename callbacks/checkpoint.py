"""Checkpoints: adapters in PEFT's format, everything else in one Lightning file; written atomically."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mappa.checkpoint import saved

if TYPE_CHECKING:
    from pydantic import PositiveInt


class AdapterCheckpoint(Checkpoint):
    """`<folder>/epoch=N/` after N epochs, 0 too: `adapters/<agent>/` and `trainer.ckpt` (optimizers, counters, RNG).

    Lightning calls callbacks of this base class last, so all others' state is of the same moment.
    """

    def __init__(self, folder: str, every_n_epochs: PositiveInt = 1, keep: PositiveInt = 2) -> None:
        """`keep`: newest checkpoints that stay on disk."""
        self._folder = Path(folder)
        self._every = every_n_epochs
        self._keep = keep

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of a new run, so that its first epoch can be gone on with, too."""
        if trainer.ckpt_path is None:
            self._save(trainer, pl_module, self._folder / "epoch=0")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.datamodule.epoch
        if done % self._every == 0 or done == trainer.max_epochs or trainer.should_stop:
            self._save(trainer, pl_module, self._folder / f"epoch={done}")

    def _save(self, trainer: Trainer, pl_module: LightningModule, target: Path) -> None:
        """Write to a temporary neighbour and rename it: what has its name is complete, and at no time is there none."""
        replaced, partial = (target.with_name(f"{word}-{target.name}") for word in ("replaced", "partial"))
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        pl_module.adapters.save(partial / "adapters", write=trainer.is_global_zero)
        trainer.save_checkpoint(partial / "trainer.ckpt")  # collective: every rank takes part
        if trainer.is_global_zero:
            for path in [p for p in partial.rglob("*") if p.is_file()]:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if target.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                target.rename(replaced)
            partial.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
            self._prune()
        trainer.strategy.barrier("checkpoint")

    def _prune(self) -> None:
        for old in saved(self._folder)[: -self._keep]:
            shutil.rmtree(old)

    def state_dict(self) -> dict[str, Any]:
        """Global generators: only dropout draws from them, every other consumer derives its own seed."""
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume_rng = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self.__dict__.pop("_resume_rng", None)
        if state is not None:
            random.setstate(state["python"])
            np.random.set_state(state["numpy"])
            torch.set_rng_state(state["torch"])
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
