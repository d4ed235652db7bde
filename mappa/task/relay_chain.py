"""A running digit handed from seat to seat: step k of the problem is seat k's, and one slip anywhere spoils the end.

A step is right or wrong given what was handed over, so a perfect judge of single actions exists (`judge=rubric_relay`),
and errors of different seats are independent: the laboratory of `+experiment=credit_lab`.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mappa.errors import ConfigError
from mappa.task.base import WorkspaceReader
from mappa.types import Grade, Task

if TYPE_CHECKING:
    from pydantic import PositiveInt

SEATS = string.ascii_lowercase[:16]
_LINE = re.compile(r"^([a-z])\+(\d)$", re.MULTILINE)
_SAID = re.compile(r"([a-z])\+(\d) (\d)=(\d)")


class RelayChain:
    """Sums modulo 10 of a start and one number for each seat; training and held-out problems are disjoint."""

    name = "relay_chain"

    def __init__(
        self, steps: PositiveInt = 8, train_size: PositiveInt = 2048, validation_size: PositiveInt = 400, seed: int = 0
    ) -> None:
        """
        Args:
            steps: of a problem, one for each seat. Of few problems (2 steps have 810) at most a third is held out.
        """
        if steps > len(SEATS):
            raise ConfigError(f"task.steps={steps} must be 1..{len(SEATS)}")
        self._steps, self._sizes, self._seed = steps, (train_size, validation_size), seed

    @cached_property
    def _tasks(self) -> list[Task]:
        rng, found = random.Random(f"{self._seed}/{self._steps}"), {}
        while len(found) < min(sum(self._sizes), 10 * 9**self._steps):
            task = make(rng, self._steps)
            found.setdefault(task.id, task)
        return list(found.values())

    @property
    def _held_out(self) -> int:
        return min(self._sizes[1], len(self._tasks) // 3)

    def train(self) -> Sequence[Task]:
        return self._tasks[self._held_out :]

    def validation(self) -> Mapping[str, Sequence[Task]]:
        return {self.name: self._tasks[: self._held_out]}

    def vote(self, answer: str) -> str | None:
        return last_digit(answer)

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """1.0 if the last digit of the last seat's text is the sum's."""
        said = self.vote(answer or "")
        if said is None:
            return Grade(0.0, "no digit was handed over")
        return Grade(float(said == task.answer), f"answered {said}, expected {task.answer}")


def make(rng: random.Random, steps: int) -> Task:
    """A new problem: `Start 3`, then a line for each seat, `a+4`."""
    start, added = rng.randint(0, 9), [rng.randint(1, 9) for _ in range(steps)]
    lines = [f"{seat}+{number}" for seat, number in zip(SEATS, added, strict=False)]
    return Task(
        id=f"relay_chain-{start}-" + "".join(map(str, added)),
        question="\n".join([f"Start {start}", *lines]),
        answer=str((start + sum(added)) % 10),
        kind="relay_chain",
    )


def last_digit(text: str) -> str | None:
    found = re.findall(r"\d", text)
    return found[-1] if found else None


def total(question: str, steps: int) -> str:
    """The running digit after so many steps, all of them right."""
    numbers = [int(number) for _, number in _LINE.findall(question)]
    return str((int(last_digit(question.partition("\n")[0]) or 0) + sum(numbers[:steps])) % 10)


@dataclass(frozen=True)
class Step:
    """Which parts of a seat's step, `c+9 4=3`, are right, given what was handed over to it."""

    own: bool
    """It is the seat's own line."""
    handed: bool
    """It goes on from the digit that was handed over."""
    total: bool
    """The sum of the two."""

    @property
    def right(self) -> bool:
        return self.own and self.handed and self.total


def check(question: str, index: int, before: str | None, said: str) -> Step | None:
    """
    Args:
        index: of the seat, from 0.
        before: what the seat before it said; None for the first one.

    Returns:
        None where the step cannot be read.
    """
    found = _SAID.fullmatch(said.strip())
    if found is None:
        return None
    seat, number, handed, total = found.groups()
    given = last_digit(question.partition("\n")[0] if before is None else before)
    return Step(
        own=(seat, number) == dict(enumerate(_LINE.findall(question))).get(index),
        handed=handed == given,
        total=(int(handed) + int(number)) % 10 == int(total),
    )
