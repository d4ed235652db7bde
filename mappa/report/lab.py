"""Many runs of one laboratory: accuracy over episodes, with intervals over seeds and problems at once.

Crossed bootstrap: seeds and problems are drawn anew together, since every seed met the same problems.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mappa.errors import ConfigError
from mappa.report.credit import break_even, rho2_outcome
from mappa.report.health import drift

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
    lens: dict[str, Any] | None
    """`held_out` and `rewards`, see `callbacks.lens`; None of a run without one."""
    training: tuple[tuple[float, float], ...]
    """(mean score of 0 to 10, mean grade) of each epoch's episodes."""


def read(folder: Path) -> Run:
    """
    Raises:
        ConfigError: the folder holds no finished run of the laboratory.
    """
    if not (folder / "summary.json").is_file():
        raise ConfigError(f"{folder} holds no finished run")
    summary = json.loads((folder / "summary.json").read_text())
    played = [_played(path) for path in sorted((folder / "episodes").glob("epoch=*.jsonl"))]
    training = tuple(means for _, means in played if means is not None)
    files = {int(path.stem.rpartition("=")[2]): path for path in (folder / "validation").glob("*-epoch=*.jsonl")}
    epochs = tuple(sorted(files))
    scores = []
    for epoch in epochs:
        records = map(json.loads, files[epoch].read_text().splitlines())
        scores.append({record["task"]: record["score"] for record in records})
    return Run(epochs, tuple(scores), played[0][0], summary.get("lens"), training)


def _played(path: Path) -> tuple[int, tuple[float, float] | None]:
    """Number of episodes, and their mean score and grade where there are both."""
    episodes = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    verdicts = [action["verdict"] for episode in episodes for action in episode["actions"]]
    scores = [verdict["score"] for verdict in verdicts if verdict and verdict["score"] is not None]
    grades = [episode["grade"]["score"] for episode in episodes if episode["grade"]]
    return len(episodes), (statistics.fmean(scores), statistics.fmean(grades)) if scores and grades else None


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


def measure(arms: Sequence[str], root: Path, seeds: int) -> dict[str, dict[str, Any]]:
    """Arm -> what its runs show; `episodes` to half of the best gain of its number of seats, None if never reached.

    Raises:
        ConfigError: a run is missing, or they do not go together.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        runs = [read(root / arm / f"seed{seed}") for seed in range(seeds)]
        epochs, scores = matrices(runs)
        seats = int(arm.partition("-")[0])
        found[arm] = {
            "seats": seats,
            "epochs": epochs,
            "trained": [epoch * runs[0].episodes for epoch in epochs],
            "scores": scores,
            "accuracy": [crossed(scores[i]) for i in range(len(epochs))],
            "area": crossed(area(epochs, scores)),
            "training": [run.training for run in runs],
        } | _seen([run.lens for run in runs if run.lens], seats)
    for numbers in found.values():
        alike = [other["accuracy"] for other in found.values() if other["seats"] == numbers["seats"]]
        before = numbers["accuracy"][0]["mean"]
        level = (before + max(accuracy[-1]["mean"] for accuracy in alike)) / 2
        means = [accuracy["mean"] for accuracy in numbers["accuracy"]]
        numbers["level"], numbers["episodes"] = level, episodes_to(level, numbers["trained"], means)
    return found


def _seen(lenses: Sequence[Mapping[str, Any]], seats: int) -> dict[str, float | None]:
    """Means over seeds and seats of what the lens saw; None without one."""
    if not lenses:
        return dict.fromkeys(("p", "right", "rho2", "rho2_outcome", "rho2_theory", "break_even"))
    rewards = [numbers for lens in lenses for numbers in lens["rewards"].values()]
    p = statistics.fmean(numbers["right"] for numbers in rewards)
    return {
        "p": p,
        "right": statistics.fmean(v for lens in lenses for v in lens["held_out"][-1]["right"].values()),
        "rho2": statistics.fmean(numbers["rho2"] or 0.0 for numbers in rewards),
        "rho2_outcome": statistics.fmean(numbers["rho2_outcome"] or 0.0 for numbers in rewards),
        "rho2_theory": rho2_outcome(p, seats) if p < 1 else None,
        "break_even": break_even(p, seats) if p < 1 else None,
    }


def difference(numbers: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Of two arms' means over the run; the same seeds and problems."""
    return crossed(area(numbers["epochs"], numbers["scores"]) - area(other["epochs"], other["scores"]))


def outcome_of(arm: str) -> str:
    """`8-grpo@2e-3` -> `8-outcome@2e-3`: what an arm is held against."""
    seats, _, rest = arm.partition("-")
    _, at, other = rest.partition("@")
    return f"{seats}-outcome{at}{other}"


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown."""
    heads = ("arm", "untrained", "at the end", "mean over the run", "seats right at the end", "episodes to level")
    heads += ("rho2 of the reward", "rho2 of the outcome (formula)", "a judge may err (formula)")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for arm, n in found.items():
        last, whole = n["accuracy"][-1], n["area"]
        cells = [arm, f"{n['accuracy'][0]['mean']:.3f}"]
        cells += [f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in (last, whole)]
        cells += [_number(n["right"], 3)]
        cells += [f"{'never' if n['episodes'] is None else format(n['episodes'], '.0f')} to {n['level']:.2f}"]
        cells += [_number(n["rho2"]), f"{_number(n['rho2_outcome'])} ({_number(n['rho2_theory'])})"]
        lines.append(f"| {' | '.join([*cells, _number(n['break_even'])])} |")
    return "\n".join([*lines, ""])


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def differences(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Of each arm against the shared outcome with as many seats: at the end, and of the mean over the run; paired."""
    lines = []
    for arm, numbers in found.items():
        other = found.get(outcome_of(arm))
        if other is None or other is numbers or numbers["scores"].shape != other["scores"].shape:
            continue
        gains = (crossed(numbers["scores"][-1] - other["scores"][-1]), difference(numbers, other))
        said = [f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for d in gains]
        lines.append(f"{arm} against {outcome_of(arm)}: {said[0]} at the end, {said[1]} over the run")
    return "\n".join([*lines, ""])


def partings(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Do score and grade of the training episodes part? Both in the first and in the last quarter of the epochs."""
    lines = []
    for arm, numbers in found.items():
        runs = [run for run in numbers["training"] if len(run) >= 4]
        if runs:
            ends = [[np.mean(run[: len(run) // 4], axis=0), np.mean(run[-(len(run) // 4) :], axis=0)] for run in runs]
            (score, grade), (last_score, last_grade) = np.mean(ends, axis=0)
            warned = sum(any(drift(run[:end]) for end in range(1, len(run) + 1)) for run in runs)
            lines.append(
                f"{arm}: score {score:.2f} to {last_score:.2f}, grade {grade:.3f} to {last_grade:.3f}; "
                f"the warning that they part came in {warned} of {len(runs)} runs"
            )
    return "\n".join([*lines, ""])
