"""Checkpoints: adapters in PEFT's format, everything else in one Lightning file; written atomically."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks import find
from callbacks.validation import ValidationCallback
from mappa.checkpoint import BEST, epoch_of, saved
from mappa.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import PositiveInt


class AdapterCheckpoint(Checkpoint):
    """`<folder>/epoch=N/` after N epochs, 0 too: `adapters/<agent>/` and `trainer.ckpt` (optimizers, counters, RNG).

    Lightning calls callbacks of this base class last, so all others' state is of the same moment. Where there is a
    validation it comes after this: what was trained is safe before it is graded, and saved again with what was found.
    """

    def __init__(
        self, folder: str, every_n_epochs: PositiveInt = 1, keep: PositiveInt = 2, best: str = "accuracy"
    ) -> None:
        """Teams of separate policies peak and then fall (arXiv 2605.24202), so the best stays beside the newest.

        Args:
            keep: newest checkpoints that stay on disk.
            best: measure by which one more stays, of those saved when it was validated; its mean over the validation
                sets, more is better: `accuracy`, one of `pass@k` and `maj@k`, or the task's own, e.g. `success`.
        """
        self._folder = Path(folder)
        self._every = every_n_epochs
        self._keep = keep
        self._best = best
        self._restored = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of a new run, so that its first epoch can be gone on with, too."""
        if trainer.ckpt_path is None:
            self._restored = True
            self.save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._due(trainer):
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not of a validation that a resumed run catches up on: its optimizers are restored after that."""
        if self._restored and self._due(trainer):
            self.save(trainer, pl_module)

    def _due(self, trainer: Trainer) -> bool:
        done = trainer.datamodule.epoch
        return done % self._every == 0 or done == trainer.max_epochs or trainer.should_stop

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write to a temporary neighbour and rename it: what has its name is complete, and at no time is there none.

        Collective.
        """
        target = self._folder / f"epoch={trainer.datamodule.epoch}"
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
            self._prune(trainer)
        trainer.strategy.barrier("checkpoint")

    def _prune(self, trainer: Trainer) -> None:
        there = saved(self._folder)
        epochs = sorted({epoch_of(path) for path in there})
        kept = set(epochs[-self._keep :])
        validated = {epoch: value for epoch, value in self._values(trainer).items() if epoch in epochs}
        if validated:
            best = max(validated, key=lambda epoch: (validated[epoch], -epoch))
            kept.add(best)
            partial = self._folder / f"{BEST}.partial"
            partial.write_text(json.dumps({"epoch": best, "measure": self._best, "value": validated[best]}) + "\n")
            partial.replace(self._folder / BEST)
        for path in there:
            if epoch_of(path) not in kept:
                shutil.rmtree(path)

    def _values(self, trainer: Trainer) -> dict[int, float]:
        """Epochs trained -> the measure, its mean over the validation sets.

        Raises:
            ConfigError: no validation set has it.
        """
        validation, values = find(trainer, ValidationCallback), defaultdict(list)
        for result in validation.results if validation is not None else []:
            found = {"accuracy": result.accuracy} | result.measures | result.metrics
            if self._best not in found:
                what = f"callbacks.checkpoint.best={self._best} is no measure of {result.name}"
                raise ConfigError(f"{what}; available: {', '.join(found)}")
            values[result.epoch].append(found[self._best]["mean"])
        return {epoch: statistics.fmean(found) for epoch, found in values.items()}

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
        self._restored = True
        self._values(trainer)  # refuses a measure that the validation before training did not have
        state = self.__dict__.pop("_resume_rng", None)
        if state is not None:
            random.setstate(state["python"])
            np.random.set_state(state["numpy"])
            torch.set_rng_state(state["torch"])
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
