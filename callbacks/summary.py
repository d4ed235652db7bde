"""`summary.json` in the run folder: what the run did, in one page; rewritten after every validation and at the end."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks import find
from callbacks.diversity import DiversityCallback
from callbacks.judge import JudgeCallback
from callbacks.lens import LensCallback
from callbacks.validation import ValidationCallback
from mappa.ranks import added, gather

_JUDGE = ("calls", "cached", "failed", "tokens_in", "tokens_out", "cost")
_TOKENS = ("needed", "computed")
_ACTIONS = ("total", "judged", "trained", "truncated")
_PER_PROBLEM = ("scores", "by_task", "tokens_by_task")
"""Of a validation; they are in validation/."""
_PACKAGES = ("mappa", "torch", "lightning", "transformers", "peft")


class SummaryCallback(Callback):
    def __init__(self, path: str, experiment: str, graded: str | None = None) -> None:
        """`graded`: which weights, where none are trained."""
        self._path = Path(path)
        self._experiment = experiment
        self._graded = {"graded": graded} if graded is not None else {}
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._rewards: dict[int, dict[str, float]] = {}
        self._judge: Counter[str] = Counter()
        self._actions: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collective: counts are of all ranks."""
        data = trainer.datamodule
        episodes, verdicts = data.everyone()
        actions = [action for episode in episodes for action in episode.own]
        known = [verdicts[action.id] for action in actions if action.id in verdicts]
        judged = [verdict for verdict in known if verdict.score is not None]
        self._judge.update(
            calls=sum(not verdict.cached for verdict in known),
            cached=sum(verdict.cached for verdict in known),
            failed=len(known) - len(judged),
            tokens_in=sum(verdict.tokens_in for verdict in known),
            tokens_out=sum(verdict.tokens_out for verdict in known),
            cost=sum(verdict.cost for verdict in known if not verdict.cached),
        )
        self._actions.update(
            total=len(actions),
            judged=len(judged),
            trained=sum(gather(len(data.rows))),
            truncated=sum(action.truncated for action in actions),
        )
        self._tokens.update(added(pl_module.tokens))
        pl_module.tokens.clear()
        metrics = trainer.callback_metrics
        rewards = {a: float(metrics[f"{a}/reward"]) for a in pl_module.agents if f"{a}/reward" in metrics}
        self._rewards[data.epoch] = rewards
        if trainer.is_global_zero:
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._write(trainer)

    def summary(self, trainer: Trainer) -> dict[str, Any]:
        validation, diversity = find(trainer, ValidationCallback), find(trainer, DiversityCallback)
        lens = find(trainer, LensCallback)
        results = validation.results if validation else []
        first = {r.name: r.accuracy for r in results if r.epoch == 0}
        last = {r.name: r.accuracy for r in results if r.epoch > 0}
        gain = {r.name: r.gain for r in results if r.gain is not None}
        saved = {r.name: r.tokens_gain for r in results if r.tokens_gain is not None}
        pool = trainer.datamodule.pool
        epochs = sorted(self._rewards)
        return {
            "experiment": self._experiment,
            **self._graded,
            "epochs": len(epochs),
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 1),
            "accuracy_before": _single(first),
            "accuracy_after": _single(last),
            "gain": _single(gain),
            "tokens_before": _single({r.name: r.tokens_interval for r in results if r.epoch == 0}),
            "tokens_after": _single({r.name: r.tokens_interval for r in results if r.epoch > 0}),
            "tokens_gain": _single(saved),
            "reward_by_agent": {
                "first": self._rewards[epochs[0]] if epochs else {},
                "last": self._rewards[epochs[-1]] if epochs else {},
            },
            "judge": {key: self._judge[key] for key in _JUDGE} | self._ledger(trainer),
            "judge_health": self._health(trainer),
            "actions": {key: self._actions[key] for key in _ACTIONS},
            "tokens": {key: int(self._tokens[key]) for key in _TOKENS},
            "sandbox": {"isolation": pool.level.name.lower(), **asdict(pool.counters)},
            "versions": {name: version(name) for name in _PACKAGES},
            "diversity": diversity.results if diversity else [],
            "lens": {} if lens is None else {"held_out": lens.results, "rewards": lens.rewards()},
            "validation": [
                {key: value for key, value in asdict(result).items() if key not in _PER_PROBLEM} for result in results
            ],
        }

    def _health(self, trainer: Trainer) -> dict[str, Any]:
        """The judge's numbers of the last epoch: saturation, stratum gap, agreement with the grade, score histogram."""
        judge = find(trainer, JudgeCallback)
        return {} if judge is None else judge.health | {"histogram": judge.histogram}

    def _ledger(self, trainer: Trainer) -> dict[str, float]:
        """The totals of a judge that is paid: every call of the run, trials, failures, those before a stop."""
        judge = find(trainer, JudgeCallback)
        return {} if judge is None else {k: v for k, v in judge.totals.items() if k not in ("cached", "failed")}

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self._seconds_before + time.monotonic() - self._started,
            "rewards": self._rewards,
            "judge": dict(self._judge),
            "actions": dict(self._actions),
            "tokens": dict(self._tokens),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["seconds"]
        self._rewards = state_dict["rewards"]
        self._judge = Counter(state_dict["judge"])
        self._actions = Counter(state_dict["actions"])
        self._tokens = Counter(state_dict["tokens"])

    def _write(self, trainer: Trainer) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.summary(trainer), indent=2) + "\n")
        partial.replace(self._path)


def _single(by_name: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """The one set's numbers as they are; several sets by name; None when nothing was validated."""
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    return by_name or None
