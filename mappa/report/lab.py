"""Many runs of one laboratory: accuracy over episodes, with intervals over seeds and problems at once. Pure but `read`.

Crossed bootstrap: seeds and problems are drawn anew together, since every seed met the same problems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from mappa.errors import ConfigError

DRAWS = 4000


@dataclass(frozen=True)
class Run:
    """One seed of one arm."""

    epochs: tuple[int, ...]
    """At which it was validated, ascending."""
    scores: tuple[dict[str, float], ...]
    """Held-out problem -> score, at each of them."""
    episodes: int
    """Played in an epoch."""
    lens: dict[str, Any]
    """`held_out` and `rewards`; see `callbacks.lens`."""


def read(folder: Path) -> Run:
    """
    Raises:
        ConfigError: the folder holds no finished run of the laboratory.
    """
    if not (folder / "summary.json").is_file():
        raise ConfigError(f"{folder} holds no finished run")
    summary = json.loads((folder / "summary.json").read_text())
    data = OmegaConf.load(folder / ".hydra" / "config.yaml").data
    files = {int(path.stem.rpartition("=")[2]): path for path in (folder / "validation").glob("*-epoch=*.jsonl")}
    epochs = tuple(sorted(files))
    scores = []
    for epoch in epochs:
        records = map(json.loads, files[epoch].read_text().splitlines())
        scores.append({record["task"]: record["score"] for record in records})
    return Run(epochs, tuple(scores), data.tasks_per_epoch * data.samples_per_task, summary["lens"])


def matrices(runs: Sequence[Run]) -> tuple[tuple[int, ...], np.ndarray]:
    """Epochs, and scores of shape (epochs, seeds, problems).

    Raises:
        ConfigError: not the same epochs or problems.
    """
    problems = sorted(runs[0].scores[0])
    for run in runs:
        if run.epochs != runs[0].epochs or any(sorted(scores) != problems for scores in run.scores):
            raise ConfigError("runs of one arm were validated at other epochs, or on other problems; run them anew")
    found = [[[run.scores[e][task] for task in problems] for run in runs] for e in range(len(runs[0].epochs))]
    return runs[0].epochs, np.array(found)


def crossed(scores: np.ndarray, draws: int = DRAWS) -> dict[str, float]:
    """Mean of a (seeds, problems) array with its 95% interval, both drawn with replacement."""
    rng, (seeds, problems) = np.random.default_rng(0), scores.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    by_problem = rng.multinomial(problems, np.full(problems, 1 / problems), draws) / problems
    means = np.einsum("ds,sp,dp->d", by_seed, scores, by_problem)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(scores.mean()), "low": float(low), "high": float(high)}


def area(epochs: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Mean score over the run, by the trapezoidal rule: (epochs, seeds, problems) -> (seeds, problems)."""
    return np.trapezoid(scores, np.array(epochs, float), axis=0) / (epochs[-1] - epochs[0])


def episodes_to(level: float, trained: Sequence[int], means: Sequence[float]) -> float | None:
    """Training episodes after which the mean score first reaches `level`; None if it never does.

    Args:
        trained: training episodes before each validation; between them the score is taken to be a straight line.
    """
    for i, value in enumerate(means):
        if value >= level:
            if i == 0:
                return float(trained[0])
            share = (level - means[i - 1]) / (value - means[i - 1])
            return trained[i - 1] + share * (trained[i] - trained[i - 1])
    return None
