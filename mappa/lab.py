"""Many arms of the credit laboratory, and what they say: `python -m mappa.lab [grid=small] [seeds=3] [jobs=2]`.

Runs every arm of the grid once for each seed, `jobs` at a time, under outputs/credit_lab/; finished runs are not run
again. Then prints a table, and writes it with the pictures beside the runs. Grids:

    small    2 and 8 seats; the perfect judge of single actions against the shared outcome
    seats    2, 4 and 8 seats; the same
    rates    8 seats; the same at other learning rates
    noise    4 seats; a judge who errs in 10 to 40 of 100 actions
    faults   4 seats; a judge with other faults: misses, false alarms, one seat favoured, saturated, often silent
    mix      4 seats; process and outcome by weight
    credit   4 seats; every credit scheme
    shared   4 seats; one adapter for all of them
    learning +experiment=quickstart, a fourth of its tasks an epoch: rubric and outcome, separate and shared adapters

Any other word goes to every run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mappa.command import help_text, run_guarded, split, wants_help
from mappa.errors import ConfigError

JUDGES = ("rubric_relay", "outcome")
FLIPS = (0.1, 0.2, 0.25, 0.3, 0.4)
RATES = ("5e-4", "2e-3", "4e-3")
SHORT = ["+experiment=quickstart", "data.tasks_per_epoch=6", "trainer.max_epochs=56"]
FOUR = "data.tasks_per_epoch=4 data.samples_per_task=4"
DECISIONS = "objective=counterfactual objective.search.depth=4 data.tasks_per_epoch=3"


def _teams(sizes: Sequence[int], more: str = "", suffix: str = "") -> dict[str, list[str]]:
    return {
        f"{k}-{judge}{suffix}": [f"team.seats={k}", f"judge={judge}", *more.split()] for k in sizes for judge in JUDGES
    }


def _four(**arms: str) -> dict[str, list[str]]:
    return {f"4-{arm}": ["team.seats=4", *words.split()] for arm, words in arms.items()}


GRIDS: dict[str, dict[str, list[str]]] = {
    "small": _teams((2, 8)),
    "seats": _teams((2, 4, 8)),
    "rates": _teams((8,))
    | {arm: words for r in RATES for arm, words in _teams((8,), f"module.learning_rate={r}", f"@{r}").items()},
    "noise": _teams((4,)) | _four(**{f"flips={f}": f"judge=noisy judge.false_alarm={f} judge.miss={f}" for f in FLIPS}),
    "faults": _teams((4,))
    | _four(
        miss="judge=noisy judge.miss=0.3",
        false_alarm="judge=noisy judge.false_alarm=0.3",
        favour="judge=noisy +judge.bias.seat_b=4",
        favour_in_team_scope="judge=noisy +judge.bias.seat_b=4 credit.scope=team",
        saturated="judge=noisy judge.floor=7",
        silent="judge=noisy judge.dropout=0.5 callbacks.judge.max_unjudged=0.8",
    ),
    "mix": _teams((4,)) | _four(**{f"mixed={w}": f"judge=mixed judge.weight={w}" for w in (0.25, 0.5, 0.75)}),
    "credit": _teams((4,))
    | _four(
        team_scope="credit.scope=team",
        baseline=f"credit=reinforce_pp_baseline {FOUR}",
        grpo=f"credit=grpo {FOUR}",
        grpo_outcome=f"credit=grpo judge=outcome {FOUR}",
        rae="credit=rae",
        rae_outcome="credit=rae judge=outcome",
        mixed="judge=mixed",
        leave_one_out=f"credit=leave_one_out judge=outcome {DECISIONS}",
        state="judge.sees=state",
        state_delta="judge.sees=state credit=state_delta",
        noisy="judge=noisy judge.miss=0.3",
        correct="judge=noisy judge.miss=0.3 credit=correct credit.rates.all.miss=0.3",
    ),
    "shared": _teams((4,)) | _teams((4,), "team.shared=true", "@shared"),
    "learning": {
        "3-rubric": SHORT,
        "3-outcome": [*SHORT, "judge=outcome"],
        "3-rubric@shared": [*SHORT, "team.shared=true"],
        "3-outcome@shared": [*SHORT, "judge=outcome", "team.shared=true"],
    },
}
"""Arm -> words. An arm is called SEATS-REWARD, or SEATS-REWARD@WHATEVER to be held against SEATS-outcome@WHATEVER."""


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
    experiment = [] if any(word.startswith("+experiment=") for word in words) else ["+experiment=credit_lab"]
    command = [sys.executable, "-m", "mappa.train", *experiment, f"hydra.run.dir='{folder}'", *words]
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

    from mappa.report.lab import differences, measure, partings, table
    from mappa.report.pictures import draw

    found = measure(list(arms), root, int(given["seeds"]))
    shown = f"{table(found)}\n{differences(found)}\n{partings(found)}"
    (root / f"{given['grid']}.md").write_text(shown)
    print(shown)  # noqa: T201 command-line output
    for path in draw(found, root, given["grid"]):
        print(path)  # noqa: T201


if __name__ == "__main__":
    run_guarded(main)
