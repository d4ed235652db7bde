"""Many arms of the credit laboratory, and what they say: `python -m mappa.lab [grid=small] [seeds=3] [jobs=2]`.

Runs every arm of the grid once for each seed, `jobs` at a time, under outputs/credit_lab/; finished runs are not run
again. Then prints a table, and writes it with the pictures beside the runs. Grids:

    small   2 and 8 seats; the perfect judge of single actions against the shared outcome
    seats   2, 4 and 8 seats; the same
    noise   4 seats; a judge who errs in 10 to 40 of 100 actions
    mix     4 seats; process and outcome by weight
    credit  4 seats; every credit scheme
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mappa.command import help_text, run_guarded, split, wants_help
from mappa.errors import ConfigError

JUDGES = ("rubric_relay", "outcome")
FLIPS = (0.1, 0.2, 0.25, 0.3, 0.4)


def _teams(sizes: Sequence[int]) -> dict[str, list[str]]:
    return {f"{k}-{judge}": [f"team.seats={k}", f"judge={judge}"] for k in sizes for judge in JUDGES}


GRIDS: dict[str, dict[str, list[str]]] = {
    "small": _teams((2, 8)),
    "seats": _teams((2, 4, 8)),
    "noise": _teams((4,))
    | {f"4-flips={f}": ["team.seats=4", "judge=noisy", f"judge.false_alarm={f}", f"judge.miss={f}"] for f in FLIPS},
    "mix": _teams((4,))
    | {f"4-mixed={w}": ["team.seats=4", "judge=mixed", f"judge.weight={w}"] for w in (0.25, 0.5, 0.75)},
    "credit": {
        "4-rubric_relay": ["team.seats=4", "judge=rubric_relay"],
        "4-team-scope": ["team.seats=4", "credit.scope=team"],
        **{
            f"4-{credit}": ["team.seats=4", f"credit={credit}", "data.tasks_per_epoch=4", "data.samples_per_task=4"]
            for credit in ("reinforce_pp_baseline", "grpo")
        },
    },
}
"""Arm -> words. An arm's name begins with its number of seats."""


def run(folder: Path, words: Sequence[str]) -> str | None:
    """One seed of one arm as a process of its own, unless it is finished already; None, or why it failed.

    What an interrupted run left behind is removed: an arm takes about a minute. One that was run with other words is no
    answer to these, and stays.
    """
    finished, said = folder / "finished", " ".join(words)
    if finished.is_file():
        before = finished.read_text()
        return None if before == said else f"it was run with other words ({before}); take another outputs=FOLDER"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "mappa.train", "+experiment=credit_lab", f"hydra.run.dir={folder}", *words]
    with (folder / "output.txt").open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        return (folder / "output.txt").read_text().strip().splitlines()[-1]
    finished.write_text(said)
    return None


def run_all(arms: Mapping[str, Sequence[str]], root: Path, seeds: int, jobs: int) -> None:
    """
    Raises:
        ConfigError: a run failed; the others are finished first.
    """
    named = [(arm, words, seed) for seed in range(seeds) for arm, words in arms.items()]
    wanted = [(root / arm / f"seed{seed}", [*words, f"seed={seed}"]) for arm, words, seed in named]
    with ThreadPoolExecutor(jobs) as pool:
        failures = list(pool.map(lambda one: run(*one), wanted))
    for (folder, _), failure in zip(wanted, failures, strict=True):
        if failure is not None:
            raise ConfigError(f"{folder} failed: {failure} (all it said: {folder}/output.txt)")


def measure(arms: Sequence[str], root: Path, seeds: int) -> dict[str, dict[str, Any]]:
    """Arm -> what its runs show; `episodes` to half of the best gain of its number of seats, None if never reached."""
    from mappa.report.credit import break_even, rho2_outcome
    from mappa.report.lab import area, crossed, episodes_to, matrices, read

    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        runs = [read(root / arm / f"seed{seed}") for seed in range(seeds)]
        epochs, scores = matrices(runs)
        rewards = [numbers for one in runs for numbers in one.lens["rewards"].values()]
        right = statistics.fmean(numbers["right"] for numbers in rewards)
        seats = int(arm.partition("-")[0])
        found[arm] = {
            "seats": seats,
            "epochs": epochs,
            "trained": [epoch * runs[0].episodes for epoch in epochs],
            "scores": scores,
            "accuracy": [crossed(scores[i]) for i in range(len(epochs))],
            "area": crossed(area(epochs, scores)),
            "right": statistics.fmean(v for one in runs for v in one.lens["held_out"][-1]["right"].values()),
            "rho2": statistics.fmean(numbers["rho2"] or 0.0 for numbers in rewards),
            "rho2_outcome": statistics.fmean(numbers["rho2_outcome"] or 0.0 for numbers in rewards),
            "rho2_theory": rho2_outcome(right, seats) if right < 1 else math.nan,
            "break_even": break_even(right, seats) if right < 1 else math.nan,
        }
    for numbers in found.values():
        alike = [other["accuracy"] for other in found.values() if other["seats"] == numbers["seats"]]
        before = numbers["accuracy"][0]["mean"]
        level = (before + max(accuracy[-1]["mean"] for accuracy in alike)) / 2
        means = [accuracy["mean"] for accuracy in numbers["accuracy"]]
        numbers["level"], numbers["episodes"] = level, episodes_to(level, numbers["trained"], means)
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown."""
    heads = ("arm", "untrained", "at the end", "mean over the run", "seats right at the end", "episodes to level")
    heads += ("rho2 of the reward", "rho2 of the outcome (formula)", "a judge may err (formula)")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for arm, n in found.items():
        last, area = n["accuracy"][-1], n["area"]
        episodes = "never" if n["episodes"] is None else f"{n['episodes']:.0f}"
        lines.append(
            f"| {arm} | {n['accuracy'][0]['mean']:.3f} | {last['mean']:.3f} [{last['low']:.3f}, {last['high']:.3f}] "
            f"| {area['mean']:.3f} [{area['low']:.3f}, {area['high']:.3f}] | {n['right']:.3f} "
            f"| {episodes} to {n['level']:.2f} | {n['rho2']:.2f} | {n['rho2_outcome']:.2f} ({n['rho2_theory']:.2f}) "
            f"| {n['break_even']:.2f} |"
        )
    return "\n".join([*lines, ""])


def differences(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Of each arm against the shared outcome with as many seats: at the end, and of the mean over the run; paired."""
    from mappa.report.lab import area, crossed

    lines = []
    for arm, numbers in found.items():
        other = found.get(f"{numbers['seats']}-outcome")
        if other is None or other is numbers or numbers["scores"].shape != other["scores"].shape:
            continue
        last = crossed(numbers["scores"][-1] - other["scores"][-1])
        whole = crossed(area(numbers["epochs"], numbers["scores"]) - area(other["epochs"], other["scores"]))
        said = [f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for d in (last, whole)]
        lines.append(f"{arm} against the outcome: {said[0]} at the end, {said[1]} over the run")
    return "\n".join([*lines, ""])


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__))  # noqa: T201 command-line output
        return
    given, others, _ = split(sys.argv[1:], {"grid": "small", "seeds": "3", "jobs": "2", "outputs": "outputs"})
    if given["grid"] not in GRIDS:
        raise ConfigError(f"grid={given['grid']} is unknown; available: {', '.join(GRIDS)}")
    for key in ("seeds", "jobs"):
        if not given[key].isdecimal() or int(given[key]) < 1:
            raise ConfigError(f"{key}={given[key]} must be a whole number of at least 1")
    root = Path(given["outputs"]).resolve() / "credit_lab"
    arms = {arm: [*words, *others] for arm, words in GRIDS[given["grid"]].items()}
    run_all(arms, root, int(given["seeds"]), int(given["jobs"]))
    found = measure(list(arms), root, int(given["seeds"]))
    shown = f"{table(found)}\n{differences(found)}"
    (root / f"{given['grid']}.md").write_text(shown)

    from mappa.report.pictures import curves

    curves(found, root / f"{given['grid']}.svg")
    print(shown)  # noqa: T201 command-line output
    print(root / f"{given['grid']}.svg")  # noqa: T201


if __name__ == "__main__":
    run_guarded(main)
