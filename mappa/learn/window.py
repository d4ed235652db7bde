"""Which tasks an epoch plays: a window of an endless, stratified order."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from mappa.seed import stable_seed
from mappa.types import Task


def task_window(tasks: Sequence[Task], first: int, count: int, seed: int) -> list[Task]:
    """Tasks `first .. first + count - 1` of an endless order: pass after pass over all tasks, each newly shuffled.

    Within a pass the kinds are interleaved in proportion, so that every window is stratified.
    """
    chosen: list[Task] = []
    while len(chosen) < count:
        number, offset = divmod(first + len(chosen), len(tasks))
        chosen += _one_pass(tasks, stable_seed(seed, "pass", number))[offset : offset + count - len(chosen)]
    return chosen


def _one_pass(tasks: Sequence[Task], seed: int) -> list[Task]:
    rng = random.Random(seed)
    by_kind: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_kind[task.kind].append(task)
    placed: list[tuple[float, Task]] = []
    for kind in sorted(by_kind):
        members, shift = by_kind[kind], rng.random()
        rng.shuffle(members)
        placed += [((index + shift) / len(members), task) for index, task in enumerate(members)]
    return [task for _, task in sorted(placed, key=lambda pair: pair[0])]
