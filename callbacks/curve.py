"""The learning curve as a picture in the run folder, redrawn after every epoch: `learning_curve.svg`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks import find
from callbacks.diversity import DiversityCallback
from callbacks.validation import ValidationCallback
from mappa.report.curve import draw

_VOTES = {"single": "one first answer", "majority": "their vote"}
_BELOW = ("consensus", "kl", "embedding", "likelihood", "entropy")


class CurveCallback(Callback):
    """Mean reward per agent (thin lines) and held-out accuracy with its 95% interval (black), over epochs.

    Of a debate also the accuracy of one first answer and of their vote, and below how different the agents are, and how
    that goes with the debate's accuracy.
    """

    def __init__(self, path: str, title: str) -> None:
        self._path = Path(path)
        self._title = title
        self._rewards: dict[str, list[tuple[int, float]]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for agent in pl_module.agents:
            reward = trainer.callback_metrics.get(f"{agent}/reward")
            if reward is not None:
                self._rewards.setdefault(agent, []).append((trainer.datamodule.epoch, float(reward)))
        self._draw(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            validation, found = find(trainer, ValidationCallback), find(trainer, DiversityCallback)
            results, diversity = validation.results if validation else [], found.results if found else []
            accuracies: dict[str, list[tuple[int, dict[str, float]]]] = {}
            for result in results:
                accuracies.setdefault(result.name, []).append((result.epoch, result.accuracy))
            lines = self._rewards_and_votes(diversity)
            spent = {"tokens": [(result.epoch, result.tokens) for result in results]}
            below = spent | {key: [(r["epoch"], r[key]) for r in diversity if key in r] for key in _BELOW}
            scatter = {k: [(r[k], r["debate"]["mean"]) for r in diversity if k in r] for k in _BELOW}
            draw(self._path, self._title, trainer.max_epochs, lines, accuracies, below, scatter)

    def _rewards_and_votes(self, diversity: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
        lines = {f"{a} reward": [(e + 0.5, value) for e, value in points] for a, points in self._rewards.items()}
        for key, name in _VOTES.items():
            lines[name] = [(r["epoch"], r[key]["mean"]) for r in diversity]
        return {name: points for name, points in lines.items() if points}

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self._rewards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rewards = state_dict["rewards"]
