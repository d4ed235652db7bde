"""Two teams on the same problems: `python -m mappa.compare FOLDER FOLDER [set=NAME] [budget=own] [tokens=all]`.

A FOLDER is a run, or holds per-problem results: `<run>/validation`, or what `python -m mappa.evaluate` printed. Whoever
spends fewer tokens a problem gets as many of its attempts as the other's one costs, on average exactly (2.4: two
attempts in 60% of cases, three in 40%), and answers by majority; every recorded attempt counts, as the mean over all
choices of so many attempts. Where a task has no vote, the mean score counts.

Words:
    set=NAME     of several validation sets
    budget=own   both as they are, an attempt each, each at its own price
    tokens=all   prompt tokens cost too; by default only what was said does
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mappa.command import help_text, run_guarded, wants_help
from mappa.errors import ConfigError
from mappa.report.statistics import interval, majority_of_subsets, paired


@dataclass(frozen=True)
class Side:
    """One team's recorded attempts."""

    folder: Path
    attempts: dict[str, list[dict[str, Any]]]
    """Task id -> its attempts in order; each has `vote`, `score` and `tokens`."""
    prompts: bool = False
    """Whether prompt tokens count as spent."""

    @property
    def recorded(self) -> int:
        """Attempts at each problem."""
        return min(map(len, self.attempts.values()))

    @property
    def votes(self) -> bool:
        return any(attempt["vote"] is not None for attempts in self.attempts.values() for attempt in attempts)

    @property
    def clusters(self) -> dict[str, str]:
        """Task id -> what it shares with others."""
        return {task: attempts[0].get("cluster", task) for task, attempts in self.attempts.items()}

    @property
    def tokens(self) -> float:
        """Tokens of one attempt, on average over problems."""
        return statistics.fmean(self.spent(1).values())

    def spent(self, samples: float) -> dict[str, float]:
        """Task id -> tokens of `samples` attempts, on average."""
        return {task: samples * statistics.fmean(map(self._cost, found)) for task, found in self.attempts.items()}

    def scores(self, samples: float, voted: bool = True) -> dict[str, float]:
        """Task id -> score of the majority of `samples` attempts, the mean over all choices of them; see above.

        Args:
            voted: false where the task has no vote: the mean score.

        Raises:
            ConfigError: fewer attempts were recorded.
        """
        few, many = math.floor(samples), math.ceil(samples)
        if self.recorded < many:
            raise ConfigError(
                f"{self.folder} has {self.recorded} attempts a problem, an equal budget takes {many}: "
                f"python -m mappa.evaluate run=... samples={many}"
            )
        shares = {few: 1.0} if few == many else {few: many - samples, many: samples - few}
        found = {}
        for task, attempts in self.attempts.items():
            votes, scores = [a["vote"] for a in attempts], [a["score"] for a in attempts]
            if voted:
                found[task] = sum(share * majority_of_subsets(votes, scores, k) for k, share in shares.items())
            else:
                found[task] = statistics.fmean(scores)
        return found

    def _cost(self, attempt: dict[str, Any]) -> int:
        return attempt["tokens"] + (attempt["prompt_tokens"] if self.prompts else 0)


def read(folder: Path, name: str | None = None, prompts: bool = False) -> Side:
    """The newest results of validation set `name` (the only one, if None).

    Raises:
        ConfigError: no such results, or several sets to choose from.
    """
    if (folder / "validation").is_dir():
        folder = folder / "validation"
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
        if prompts and "prompt_tokens" not in record:
            raise ConfigError(
                f"{found[name][-1]} does not say how long prompts were; evaluate anew, or leave tokens=all"
            )
        attempts[record["task"]].append(record)
    if not attempts:
        raise ConfigError(f"{found[name][-1]} is empty")
    return Side(folder, dict(attempts), prompts)


def compare(one: Side, other: Side, equal: bool = True) -> dict[str, Any]:
    """Accuracies and tokens a problem, and the paired tests of one against the other.

    Args:
        equal: at the budget of whichever spends more tokens a problem; false = each at its own price.

    Returns:
        for each side also `samples` (attempts that the budget buys), `recorded` (all of which count) and `utilisation`
        (share of the budget that is spent).

    Raises:
        ConfigError: other problems, too few attempts for an equal budget, or a side that said nothing.
    """
    budget, voted = max(one.tokens, other.tokens), one.votes or other.votes
    sides, scores, spent = [], [], []
    for side in (one, other):
        if equal and side.tokens == 0:
            raise ConfigError(f"{side.folder} spent no tokens, so no budget is equal to it; take budget=own")
        samples = round(budget / side.tokens, 9) if equal else 1.0
        scores.append(side.scores(samples, voted))
        spent.append(side.spent(samples))
        outcomes = all(attempt["score"] in (0, 1) for attempts in side.attempts.values() for attempt in attempts)
        trials = max(1, side.recorded // math.ceil(samples)) if outcomes else None
        cost = statistics.fmean(spent[-1].values())
        sides.append(
            {"folder": str(side.folder), "samples": samples, "recorded": side.recorded, "tokens_per_problem": cost}
            | {"utilisation": cost / budget if budget else 1.0}
            | interval(list(scores[-1].values()), trials, list(side.clusters.values()), within=(0.0, 1.0))
        )
    try:
        differences = {
            "difference": paired(scores[1], scores[0], one.clusters),
            "tokens_difference": paired(spent[1], spent[0], one.clusters),
        }
    except ValueError as error:
        raise ConfigError(f"{one.folder} and {other.folder} cannot be compared: {error}") from None
    return {"one": sides[0], "other": sides[1], **differences}


_WORDS = {"set": None, "budget": ("equal", "own"), "tokens": ("completion", "all")}


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__))  # noqa: T201 command-line output
        return
    pairs = [word.partition("=") for word in sys.argv[1:]]
    words = {key: value for key, equals, value in pairs if equals and key in _WORDS}
    folders = [Path(word) for word in sys.argv[1:] if word.partition("=")[0] not in _WORDS]
    if len(folders) != 2:
        raise ConfigError("say which two: python -m mappa.compare FOLDER FOLDER [set=NAME] [budget=own] [tokens=all]")
    for key, value in words.items():
        if _WORDS[key] is not None and value not in _WORDS[key]:
            raise ConfigError(f"{key}={value} is unknown; available: {', '.join(_WORDS[key])}")
    sides = (read(folder, words.get("set"), words.get("tokens") == "all") for folder in folders)
    print(json.dumps(compare(*sides, equal=words.get("budget") != "own"), indent=2))  # noqa: T201


if __name__ == "__main__":
    run_guarded(main)
