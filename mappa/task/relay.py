"""Two seats, half of the facts each: an offline miniature of information exchange (Optima, arXiv 2410.08115)."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mappa.errors import ConfigError
from mappa.task.base import WorkspaceReader
from mappa.types import Grade, Task

if TYPE_CHECKING:
    from pydantic import PositiveInt

SEATS = ("alice", "bob")
FACTS = 4
"""Of each seat."""
_MARKED = re.compile(r"#(-?\d+)")


class Relay:
    """Each seat holds four `key=number` facts; the question names one key of each, the answer is the sum.

    A seat knows one addend only, so the right answer among `2 * largest + 1` takes an exchange. What a seat is shown,
    `metadata["views"][seat]`, names its own key first. Answers are marked: `#41`.
    """

    def __init__(
        self,
        train_size: PositiveInt = 1000,
        validation_size: PositiveInt = 400,
        largest: PositiveInt = 49,
        kind: Literal["sum", "chain"] = "sum",
        seed: int = 0,
    ) -> None:
        """
        Args:
            largest: facts are numbers from 0 to this.
            kind: `sum`; `chain`: the second key is an alias, which only the other seat can resolve, of a key of the
                first seat's own.
        """
        if largest < 9:
            raise ConfigError(f"task.largest={largest} makes guessing pay; take at least 9")
        self.name = "relay" if kind == "sum" else "relay_aliases"
        self._sizes, self._largest, self._kind, self._seed = (train_size, validation_size), largest, kind, seed

    @cached_property
    def _tasks(self) -> list[Task]:
        rng, found = random.Random(self._seed), {}
        while len(found) < sum(self._sizes):
            task = make(rng, self._largest, self._kind, len(found))
            found.setdefault((task.metadata["views"]["alice"], task.metadata["views"]["bob"]), task)
        return list(found.values())

    def train(self) -> Sequence[Task]:
        return self._tasks[: self._sizes[0]]

    def validation(self) -> Mapping[str, Sequence[Task]]:
        return {self.name: self._tasks[self._sizes[0] :]}

    def vote(self, answer: str) -> str | None:
        return marked(answer)

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """1.0 if the last marked number is the sum."""
        said = self.vote(answer or "")
        if said is None:
            return Grade(0.0, "no answer was marked with #")
        return Grade(float(said == task.answer), f"answered {said}, expected {task.answer}")


def marked(text: str) -> str | None:
    """The last number after a `#`."""
    found = _MARKED.findall(text)
    return found[-1] if found else None


def make(rng: random.Random, largest: int, kind: str, number: int) -> Task:
    """A new problem; `number` names it."""
    keys = rng.sample(string.ascii_lowercase, 2 * FACTS + 1)
    alias = keys.pop()
    facts = {key: rng.randint(0, largest) for key in keys}
    mine, theirs = keys[:FACTS], keys[FACTS:]
    first, second = mine[0], theirs[0] if kind == "sum" else alias
    answer = facts[first] + facts[theirs[0] if kind == "sum" else mine[1]]
    shown = {
        SEATS[0]: [f"{key}={facts[key]}" for key in mine],
        SEATS[1]: [f"{key}={facts[key]}" for key in theirs] + ([f"{alias}={mine[1]}"] if kind == "chain" else []),
    }
    for lines in shown.values():
        rng.shuffle(lines)
    views = {
        SEATS[0]: f"{first} + {second}? {' '.join(shown[SEATS[0]])}",
        SEATS[1]: f"{second} + {first}? {' '.join(shown[SEATS[1]])}",
    }
    return Task(
        id=f"relay-{kind}-{number}",
        question=f"{first} + {second}?",
        answer=str(answer),
        kind=kind,
        metadata={"views": views, "facts": facts},
    )
