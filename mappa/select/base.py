"""What every selection offers: episodes -> the actions that are learned, each with its weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mappa.epoch import Collected
from mappa.ranks import added
from mappa.reward.base import Rating
from mappa.text import strip_reasoning
from mappa.types import Action, Sample, Task

if TYPE_CHECKING:
    from mappa.task.base import TaskSet


@dataclass(frozen=True)
class Choice:
    """One action that is learned."""

    action: Action
    task: Task
    weight: float = 1.0
    """Of each of its tokens; in a pair 1 for the chosen action, -1 for the rejected one."""

    @property
    def sample(self) -> Sample:
        """On its way into the loss."""
        return Sample(self.action, self.task.id, self.task.kind, None)


@dataclass(frozen=True)
class Chosen:
    """This rank's choices."""

    groups: list[tuple[Choice, ...]]
    """Of one choice each, or of two: (chosen, rejected)."""
    metrics: dict[str, float]
    """Of all ranks."""


class Selection(Protocol):
    """Pure and seeded: the same episodes give the same choices, in any process."""

    group: int
    """Choices that belong together: 1, or 2 for pairs."""
    needs_ratings: bool
    """Whether it looks at what episodes are rated."""

    def check(self, seats: Mapping[str, str], task_set: TaskSet) -> None:
        """Whether the team and the tasks have what it looks for.

        Args:
            seats: the team's, each with its adapter.

        Raises:
            ConfigError: they have not.
        """

    def choose(self, made: Collected, ratings: Mapping[str, Rating]) -> Chosen:
        """This rank's choices, decided on everyone's numbers. Collective.

        Args:
            ratings: episode id -> rating, of this rank's; empty where `needs_ratings` is false.
        """


def vote_of(action: Action, task_set: TaskSet) -> str | None:
    """The answer that an action gives, in the task's normal form; None = none could be read."""
    return task_set.vote(strip_reasoning(action.text))


def is_right(action: Action, task: Task, task_set: TaskSet) -> bool:
    """By the task's grader."""
    return task_set.grade(task, strip_reasoning(action.text), None).score >= 1.0


def purity(choices: Sequence[Choice], made: Collected, graded: bool = True) -> dict[str, float]:
    """`<agent>/kept` actions and `<agent>/purity`, the share of them that are right, where the task has a key.

    The key is looked at for these numbers only; nothing is learned from them. Collective.

    Args:
        graded: whether an action gives an answer of its own; else it is only counted.
    """
    counts: Counter[str] = Counter()
    for choice in choices:
        agent = choice.action.agent
        counts[f"{agent}/kept"] += 1
        if graded and choice.task.answer is not None:
            counts[f"{agent}/graded"] += 1
            counts[f"{agent}/right"] += is_right(choice.action, choice.task, made.task_set)
    totals = added(counts, made.gather)
    numbers = {key: float(count) for key, count in totals.items() if key.endswith("/kept")}
    for agent in sorted(key.removesuffix("/graded") for key in totals if key.endswith("/graded")):
        numbers[f"{agent}/purity"] = totals[f"{agent}/right"] / totals[f"{agent}/graded"]
    return numbers
