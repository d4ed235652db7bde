"""a + b*c + d - e*f with small positive integers: the arithmetic task of Multiagent Finetuning (arXiv 2501.05707)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mappa.errors import ConfigError
from mappa.task.base import WorkspaceReader
from mappa.text import last_boxed
from mappa.types import Grade, Task

if TYPE_CHECKING:
    from pydantic import PositiveInt


class Arithmetic:
    """Problems generated from a seed; training and held-out problems are disjoint by construction."""

    name = "arithmetic"

    def __init__(
        self,
        train_size: PositiveInt = 512,
        validation_size: PositiveInt = 256,
        largest: PositiveInt = 30,
        seed: int = 0,
    ) -> None:
        """`largest`: integers are drawn from 1..largest."""
        if largest**6 < 2 * (train_size + validation_size):
            raise ConfigError(f"task.largest={largest} gives too few different problems; raise it or ask for fewer")
        self._sizes = (train_size, validation_size)
        self._largest = largest
        self._seed = seed

    @cached_property
    def _tasks(self) -> list[Task]:
        rng = random.Random(self._seed)
        seen: dict[tuple[int, ...], None] = {}
        while len(seen) < sum(self._sizes):
            seen.setdefault(tuple(rng.randint(1, self._largest) for _ in range(6)))
        return [problem(numbers) for numbers in seen]

    def train(self) -> Sequence[Task]:
        return self._tasks[: self._sizes[0]]

    def validation(self) -> Mapping[str, Sequence[Task]]:
        return {self.name: self._tasks[self._sizes[0] :]}

    def vote(self, answer: str) -> str | None:
        boxed = last_boxed(answer)
        return None if boxed is None else boxed.replace(" ", "")

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        r"""1.0 if the last `\boxed{}` holds exactly the right integer."""
        boxed = self.vote(answer or "")
        if boxed is None:
            return Grade(0.0, "no \\boxed{} answer")
        return Grade(float(boxed == task.answer), f"answered {boxed}, expected {task.answer}")


def problem(numbers: Sequence[int]) -> Task:
    a, b, c, d, e, f = numbers
    expression = f"{a} + {b}*{c} + {d} - {e}*{f}"
    return Task(
        id="arithmetic-" + "-".join(map(str, numbers)),
        question=f"Compute {expression}.",
        answer=str(a + b * c + d - e * f),
        kind="arithmetic",
        metadata={"expression": expression},
    )
