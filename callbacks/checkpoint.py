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

if TYPE_CHECKING:
    from pydantic import PositiveInt


class AdapterCheckpoint(Checkpoint):
    """`<folder>/epoch=N/` after N epochs: `adapters/<agent>/` and `trainer.ckpt` (optimizers, loops, counters, RNG).

    Lightning calls callbacks of this base class last, so all others' state is of the same moment.
    """

    def __init__(self, folder: str, every_n_epochs: PositiveInt = 1, keep: PositiveInt = 2) -> None:
        """`keep`: newest checkpoints that stay on disk."""
        self._folder = Path(folder)
        self._every = every_n_epochs
        self._keep = keep

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.datamodule.epoch
        if done % self._every == 0 or done == trainer.max_epochs or trainer.should_stop:
            self._save(trainer, pl_module, self._folder / f"epoch={done}")

    def _save(self, trainer: Trainer, pl_module: LightningModule, target: Path) -> None:
        """Write to a temporary neighbour and rename it: a checkpoint that has its name is complete."""
        partial = target.with_name(f"partial-{target.name}")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        pl_module.adapters.save(partial / "adapters", write=trainer.is_global_zero)
        trainer.save_checkpoint(partial / "trainer.ckpt")  # collective: every rank takes part
        if trainer.is_global_zero:
            for path in [p for p in partial.rglob("*") if p.is_file()]:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            self._prune()
        trainer.strategy.barrier("checkpoint")

    def _prune(self) -> None:
        saved = sorted(self._folder.glob("epoch=*"), key=lambda path: int(path.name.partition("=")[2]))
        for old in saved[: -self._keep]:
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
