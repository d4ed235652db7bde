"""Two teams on the same problems: `python -m mappa.compare FOLDER FOLDER [set=NAME] [budget=own]`.

A FOLDER holds per-problem results: `<run>/validation`, or what `python -m mappa.evaluate` printed. Whoever spends fewer
tokens a problem gets as many of its samples as the other's one costs, and answers by majority; with `budget=own` both
are taken as they are, each at its own price. Both differences, accuracy and tokens, come with intervals.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mappa.command import help_text, run_guarded, wants_help
from mappa.errors import ConfigError
from mappa.report.statistics import interval, majority, paired


@dataclass(frozen=True)
class Side:
    """One team's recorded attempts."""

    folder: Path
    attempts: dict[str, list[dict[str, Any]]]
    """Task id -> its attempts in order; each has `vote`, `score` and `tokens`."""

    @property
    def tokens(self) -> float:
        """Completion tokens of one attempt, on average."""
        return statistics.fmean(attempt["tokens"] for attempts in self.attempts.values() for attempt in attempts)

    def spent(self, samples: int) -> dict[str, float]:
        """Task id -> completion tokens of its first `samples` attempts."""
        return {task: float(sum(a["tokens"] for a in found[:samples])) for task, found in self.attempts.items()}

    def scores(self, samples: int) -> dict[str, float]:
        """Task id -> score of the majority over its first `samples` attempts.

        Raises:
            ConfigError: fewer attempts were recorded.
        """
        recorded = min(map(len, self.attempts.values()))
        if recorded < samples:
            raise ConfigError(
                f"{self.folder} has {recorded} attempts a problem, an equal budget takes {samples}: "
                f"python -m mappa.evaluate run=... samples={samples}"
            )
        return {
            task: majority([a["vote"] for a in attempts[:samples]], [a["score"] for a in attempts[:samples]])
            for task, attempts in self.attempts.items()
        }


def read(folder: Path, name: str | None = None) -> Side:
    """The newest results of validation set `name` (the only one, if None).

    Raises:
        ConfigError: no such results, or several sets to choose from.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*-epoch=*.jsonl")):
        found[path.stem.rpartition("-epoch=")[0]].append(path)
    if not found:
        raise ConfigError(f"{folder} holds no per-problem results (NAME-epoch=N.jsonl)")
    if name is None and len(found) > 1:
        raise ConfigError(f"{folder} has several sets; say which: set={'|'.join(sorted(found))}")
    name = name or next(iter(found))
    if name not in found:
        raise ConfigError(f"{folder} has no set '{name}'; available: {', '.join(sorted(found))}")
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in found[name][-1].read_text().splitlines():
        record = json.loads(line)
        attempts[record["task"]].append(record)
    return Side(folder, dict(attempts))


def compare(one: Side, other: Side, equal: bool = True) -> dict[str, Any]:
    """Accuracies and tokens a problem, and the paired tests of one against the other.

    Args:
        equal: at the budget of whichever spends more tokens a problem; false = each at its own price.

    Raises:
        ConfigError: other problems, or too few attempts for an equal budget.
    """
    budget = max(one.tokens, other.tokens)
    sides, scores, spent = [], [], []
    for side in (one, other):
        samples = int(budget / side.tokens) if equal else 1
        scores.append(side.scores(samples))
        spent.append(side.spent(samples))
        accuracy = interval(list(scores[-1].values()))
        sides.append(
            {"folder": str(side.folder), "samples": samples, "tokens_per_problem": side.tokens * samples} | accuracy
        )
    try:
        differences = {"difference": paired(scores[1], scores[0]), "tokens_difference": paired(spent[1], spent[0])}
        return {"one": sides[0], "other": sides[1], **differences}
    except ValueError as error:
        raise ConfigError(f"{one.folder} and {other.folder} cannot be compared: {error}") from None


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__))  # noqa: T201 command-line output
        return
    words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("set=", "budget=")))
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith(("set=", "budget="))]
    if len(folders) != 2:
        raise ConfigError("say which two: python -m mappa.compare FOLDER FOLDER [set=NAME] [budget=own]")
    if words.get("budget", "equal") not in ("equal", "own"):
        raise ConfigError(f"budget={words['budget']} is unknown; available: equal, own")
    sides = (read(folder, words.get("set")) for folder in folders)
    print(json.dumps(compare(*sides, equal=words.get("budget") != "own"), indent=2))  # noqa: T201


if __name__ == "__main__":
    run_guarded(main)
