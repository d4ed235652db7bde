"""What every task set offers: training tasks, named validation sets, and the only grader whose word is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mappa.types import Grade, Task


class WorkspaceReader(Protocol):
    """The part of a sandbox workspace that a grader may use: files are read from outside the kernel."""

    def read(self, name: str, max_bytes: int = ...) -> bytes: ...


class TaskSet(Protocol):
    name: str

    def train(self) -> Sequence[Task]:
        """Training tasks, in a fixed order.

        Raises:
            TaskError: a file is missing or a record unusable; names it.
        """

    def validation(self) -> Mapping[str, Sequence[Task]]:
        """Name -> held-out tasks; disjoint from `train()`."""

    def vote(self, answer: str) -> str | None:
        """The final answer, written so that equal answers are equal strings, for maj@k; None = no answer."""

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """Judge the outcome outside the kernel, from the final text or from files. Runs in a worker thread."""
