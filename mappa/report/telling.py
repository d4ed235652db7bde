"""Which episodes tell most of a run, and why. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from mappa.report.records import TRAIN, Row

LOW, HIGH = 3.0, 8.0
"""Judge scores on 0-10 that say bad and good."""
EACH = 12
"""Episodes of a kind that come first."""

LARGE, DISAGREE, LATE, BETTER, WORSE, FAILED, CUT = (
    "largest advantage",
    "judge and grade disagree",
    "failed late",
    "better than before training",
    "worse than before training",
    "ended in an error",
    "cut off",
)
WHY = (LARGE, DISAGREE, LATE, BETTER, WORSE, FAILED, CUT)


def telling(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Row key -> why it is looked at first, the most telling episodes of each kind first, the kinds taking turns.

    A kind names `EACH` episodes at most.
    """
    pairs = before_and_after(rows)
    by_key = {row.key: row for row in rows}
    gained = {after: (by_key[after].grade or 0.0) - (by_key[before].grade or 0.0) for after, before in pairs.items()}
    alike = len({abs(row.advantage) for row in rows if row.advantage}) < 2  # weights of a selection, say
    kinds = {
        LARGE: [] if alike else _most(rows, lambda row: abs(row.advantage or 0.0)),
        DISAGREE: _most(rows, disagreement),
        LATE: _most(rows, late),
        BETTER: _most(rows, lambda row: gained.get(row.key, 0.0)),
        WORSE: _most(rows, lambda row: -gained.get(row.key, 0.0)),
        FAILED: _most(rows, lambda row: float(bool(row.error))),
        CUT: _most(rows, lambda row: float(row.truncated)),
    }
    found: dict[str, list[str]] = defaultdict(list)
    for place in range(EACH):
        for why, chosen in kinds.items():
            if place < len(chosen):
                found[chosen[place].key].append(why)
    return dict(found)


def _most(rows: Iterable[Row], measure: Callable[[Row], float]) -> list[Row]:
    values = {row.key: measure(row) for row in rows}
    chosen = sorted((row for row in rows if values[row.key] > 0), key=lambda row: -values[row.key])
    return chosen[:EACH]


def disagreement(row: Row) -> float:
    """How far the judge's mean score is from the grade, both on 0-1, where one says good and the other bad; else 0."""
    if row.grade is None or not row.scores:
        return 0.0
    mean = sum(row.scores) / len(row.scores)
    apart = (mean >= HIGH and row.grade <= LOW / 10) or (mean <= LOW and row.grade >= HIGH / 10)
    return abs(mean / 10 - row.grade) if apart else 0.0


def late(row: Row) -> float:
    """The share of a failed episode's actions that the judge found good before the first that it found bad."""
    if row.grade is None or row.grade > LOW / 10 or len(row.scores) < 3:
        return 0.0
    bad = next((index for index, score in enumerate(row.scores) if score <= LOW), None)
    good = bad is not None and all(score >= HIGH for score in row.scores[:bad])
    return bad / len(row.scores) if good and 2 * bad >= len(row.scores) else 0.0


def before_and_after(rows: Sequence[Row]) -> dict[str, str]:
    """Key of an episode of the last validation -> key of the same one (problem and copy) before training."""
    by_set: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.set != TRAIN:
            by_set[row.set][row.epoch][row.id] = row.key
    pairs = {}
    for epochs in by_set.values():
        first, last = min(epochs), max(epochs)
        if first == 0 and last > 0:
            pairs |= {key: epochs[first][name] for name, key in epochs[last].items() if name in epochs[first]}
    return pairs


def chosen(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit`: the most telling ones, each with its counterpart and relatives, then the others, spread evenly.

    In the order in which they are worth their place.
    """
    why, pairs = telling(rows), before_and_after(rows)
    by_key = {row.key: row for row in rows}
    families: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for row in rows:
        families[row.set, row.epoch, row.task].append(row.key)
    first = []
    for key in why:
        row = by_key[key]
        relatives = families[row.set, row.epoch, row.task] if row.set == TRAIN else [pairs.get(key, key)]
        first += [key, *relatives]
    order = dict.fromkeys(first)
    rest = [row.key for row in rows if row.key not in order]
    room = max(0, limit - len(order))
    if room < len(rest):
        rest = [rest[index * len(rest) // room] for index in range(room)] if room else []
    return [by_key[key] for key in [*order, *rest][:limit]]
