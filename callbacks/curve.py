"""The learning curve as a picture in the run folder, redrawn after every epoch: `learning_curve.svg`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.validation import ValidationCallback
from mappa.report.curve import draw


class CurveCallback(Callback):
    """Mean reward per agent (thin lines) and held-out accuracy with its 95% interval (black), over epochs."""

    def __init__(self, path: str, title: str) -> None:
        self._path = Path(path)
        self._title = title
        self._rewards: dict[str, list[tuple[int, float]]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for agent in pl_module.agents:
            reward = trainer.callback_metrics.get(f"{agent}/reward")
            if reward is not None:
                self._rewards.setdefault(agent, []).append((trainer.datamodule.epoch, float(reward)))
        if trainer.is_global_zero:
            validation = next((c for c in trainer.callbacks if isinstance(c, ValidationCallback)), None)
            accuracies: dict[str, list[tuple[int, dict[str, float]]]] = {}
            for result in validation.results if validation else []:
                accuracies.setdefault(result.name, []).append((result.epoch, result.accuracy))
            self._path.write_text(draw(self._title, trainer.max_epochs, self._rewards, accuracies))

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self._rewards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rewards = state_dict["rewards"]
