"""Mathematics with exact answers (AIME, AMC, MATH, GSM8K, ...): records from files or the hub, graded by `answers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mappa.errors import TaskError
from mappa.task import answers
from mappa.task.base import WorkspaceReader
from mappa.task.records import RecordTasks, Source, cluster_of, field_of, identity, kind_of, question_of, text_of
from mappa.types import Grade, Task


class MathTask(RecordTasks):
    """Training and validation problems that never overlap, and their grader."""

    def __init__(
        self,
        name: str,
        train: Source | Mapping[str, Any] | None = None,
        validation: Mapping[str, Source | Mapping[str, Any]] | None = None,
        data_dir: str | None = None,
        drop_overlap: bool = False,
        time_limit_s: float = 5.0,
    ) -> None:
        """`time_limit_s`: most seconds one answer may take to grade. The others: see `RecordTasks`."""
        super().__init__(name, train, validation, data_dir, drop_overlap)
        self._time_limit_s = time_limit_s

    def task(self, record: Mapping[str, Any], source: Source, name: str, where: str) -> Task:
        question = question_of(record, source, where)
        answer = text_of(field_of(record, source.answer, "answer", where), where)
        if source.after is not None:
            _, mark, answer = answer.rpartition(source.after)
            if not mark:
                raise TaskError(f"{where}: the answer has no '{source.after}', after which it is looked for (`after`)")
            answer = text_of(answer, where)
        kind = kind_of(record, source, name, where)
        cluster = cluster_of(record, source, where)
        name = f"{name}/{identity(record, source, question)}"
        return Task(id=name, question=question, answer=answer, kind=kind, cluster=cluster)

    def vote(self, answer: str) -> str | None:
        found = answers.extract(answer)
        return None if found is None else answers.canonical(found, self._time_limit_s)

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """1.0 if the final answer stated in the team's last text equals the ground truth, else 0.0, with the reason."""
        if task.answer is None:
            raise TaskError(f"task {task.id} has no ground truth to grade against")
        found = answers.extract(answer) if answer else None
        if found is None:
            return Grade(0.0, "no final answer was stated")
        shown = found if len(found) <= 80 else f"{found[:80]}..."
        equal = answers.matches(found, task.answer, self._time_limit_s)
        if equal is None:
            return Grade(0.0, f"{shown} could not be compared with {task.answer} within {self._time_limit_s:g} s")
        return Grade(float(equal), f"{shown} {'equals' if equal else 'is not'} {task.answer}")
