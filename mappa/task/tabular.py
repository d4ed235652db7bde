"""Modelling tasks on tables, in DSBench's layout (arXiv 2409.07703): task text, train.csv, test.csv, hidden answers.

The answers lie outside every workspace and are read by the grader alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from mappa.errors import ConfigError, TaskError
from mappa.task.base import WorkspaceReader
from mappa.task.files import jsonl_records
from mappa.task.metrics import METRICS, asked_metric, unknown
from mappa.task.records import refuse_bad
from mappa.task.submission import SubmissionError, fair, measure, read_submission
from mappa.task.tables import same_data, write_tables
from mappa.types import Grade, Task

if TYPE_CHECKING:
    from annotated_types import Gt, Lt
    from pydantic import PositiveInt

KINDS = ("classification", "regression")
SUBMISSION = "submission.csv"
SUBMISSION_BYTES = 64 << 20


class Tabular:
    """Records from files of the user, tasks on scikit-learn's tables, or both."""

    name = "tabular"

    def __init__(
        self,
        folder: str,
        train: str | None = None,
        validation: Mapping[str, str] | None = None,
        data_dir: str = ".",
        train_tables: Sequence[str] = (),
        validation_tables: Sequence[str] = (),
        splits: PositiveInt = 4,
        test_share: Annotated[float, Gt(0), Lt(1)] = 0.3,
        seed: int = 0,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            folder: where the tasks on scikit-learn's tables are written.
            train: JSONL of DSBench records (`prompt`, `metadata` with task_id, data_type, train_file, test_file,
                answer_dir; `cluster` where several are made of one table; `metric` where the prompt names none of
                `metrics.METRICS`).
            validation: set name -> such a file.
            data_dir: what relative paths in the records start from.
            train_tables: names in `mappa.task.tables.TABLES`.
            validation_tables: likewise, of other data; they become the validation set `tables`.
            splits: tasks a table, each with its own split of the rows.
            test_share: share of a table's rows to be predicted.
        """
        if both := same_data(train_tables, validation_tables):
            raise ConfigError(f"task: tables '{both[0]}' (training) and '{both[1]}' (validation) hold the same rows")
        self._folder, self._data_dir = Path(folder), Path(data_dir)
        self._train, self._validation = train, dict(validation or {})
        self._tables = (tuple(train_tables), tuple(validation_tables))
        self._made = (splits, seed, test_share)

    def train(self) -> Sequence[Task]:
        return self._sets[0]

    def validation(self) -> Mapping[str, Sequence[Task]]:
        return self._sets[1]

    def vote(self, answer: str) -> str | None:
        """Submissions are not voted on."""
        return None

    def grade(self, task: Task, answer: str | None, workspace: WorkspaceReader | None) -> Grade:
        """`score` is the skill by the task's metric: 0 for a failed submission or a constant one, 1 for a perfect one.

        `metrics`: success, the task's measures, and the paper's fair ones.
        """
        names = ("accuracy", "f1") if task.kind == "classification" else ("rmse_pct",)
        try:
            if workspace is None:
                raise SubmissionError("nothing was ever run")
            targets = list(task.metadata["targets"])
            answers = pd.read_csv(task.metadata["answers"], keep_default_na=False)[[task.metadata["id"], *targets]]
            predicted = read_submission(_read(workspace), answers, task.metadata["id"])
            train = pd.read_csv(task.files["train.csv"], usecols=targets)
            found = measure(answers[targets], predicted, train, task.kind, task.metadata["metric"])
        except SubmissionError as error:
            return Grade(0.0, str(error), {"success": 0.0} | fair({}, names))
        reason = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        return Grade(found["skill"], reason, {"success": 1.0} | found | fair(found, names))

    @cached_property
    def _sets(self) -> tuple[list[Task], dict[str, list[Task]]]:
        splits, seed, share = self._made
        given = self._records(self._train)
        validation = {name: self._records(path) for name, path in self._validation.items()}
        made = [write_tables(self._folder.resolve(), names, splits, seed, share) for names in self._tables]
        train = [self._task(record, "scikit-learn") for record in made[0]] + given
        if made[1]:
            validation["tables"] = [self._task(record, "scikit-learn") for record in made[1]]
        seen = {task.id for task in train}
        for name, tasks in validation.items():
            if both := sorted(seen & {task.id for task in tasks}):
                raise TaskError(f"task {both[0]} stands in both the training set and validation set '{name}'")
        if not train and not validation:
            raise ConfigError("task: no tasks; give task.train (a JSONL of DSBench records) or task.train_tables")
        return train, validation

    def _records(self, path: str | None) -> list[Task]:
        if path is None:
            return []
        if not Path(path).is_file():
            raise TaskError(f"task file {path} is missing; give a JSONL of DSBench records")
        tasks, bad, records = [], [], list(jsonl_records(Path(path)))
        for place, record in records:
            try:
                tasks.append(self._task(record, f"{path}, {place}"))
            except TaskError as error:
                bad.append(str(error))
        refuse_bad(bad, len(records))
        return tasks

    def _task(self, record: Mapping[str, Any], where: str) -> Task:
        """One record with its files looked at: which column is the id, which are to be predicted."""
        if isinstance(record, Exception):
            raise TaskError(f"{where} is not JSON: {record}")
        meta = record.get("metadata") if isinstance(record, Mapping) else None
        if not isinstance(meta, Mapping) or not isinstance(record.get("prompt"), str):
            raise TaskError(f"{where}: a record is an object with `prompt` (text) and `metadata` (an object)")
        for key in ("task_id", "data_type", "train_file", "test_file", "answer_dir"):
            if key not in meta:
                raise TaskError(f"{where}: metadata.{key} is missing")
        if meta["data_type"] not in KINDS:
            raise TaskError(f"{where}: data_type={meta['data_type']} must be one of {', '.join(KINDS)}")
        metric = _metric(record["prompt"], meta, f"{where} ({meta['task_id']})")
        files = {"train.csv": meta["train_file"], "test.csv": meta["test_file"]}
        files |= {"sample_submission.csv": meta["sample_file"]} if "sample_file" in meta else {}
        files = {name: self._existing(path, f"{where} ({meta['task_id']})") for name, path in files.items()}
        answers = self._existing(str(Path(meta["answer_dir"]) / "test_answer.csv"), f"{where} ({meta['task_id']})")
        id_column, targets = _columns(answers, files["train.csv"], files["test.csv"], where)
        kind = METRICS[metric].kind  # what it is scored by decides, whatever the record calls it
        _check_kind(answers, targets, kind, f"{where} ({meta['task_id']})")
        return Task(
            id=meta["task_id"],
            question=record["prompt"],
            kind=kind,
            cluster=str(meta.get("cluster", "")),
            files=files,
            metadata={
                "answers": answers,
                "id": id_column,
                "targets": targets,
                "metric": metric,
            },
        )

    def _existing(self, path: str, where: str) -> str:
        found = self._data_dir / path
        if not found.is_file():
            raise TaskError(f"{where}: {found} is missing; task.data_dir is what relative paths start from")
        return str(found)


def _read(workspace: WorkspaceReader) -> bytes:
    try:
        return workspace.read(SUBMISSION, SUBMISSION_BYTES)
    except FileNotFoundError as error:
        raise SubmissionError(f"there is no {SUBMISSION}") from error
    except OSError as error:
        raise SubmissionError(str(error)) from error


def _columns(answers: str, train: str, test: str, where: str) -> tuple[str, list[str]]:
    """The id column and the targets.

    The id is a column of the answers and of test.csv that tells the rows apart (one called `...id`, else the first);
    targets are those of the answers that train.csv has and test.csv has not. Others, as Kaggle's `Usage`, are neither.
    """
    frame = pd.read_csv(answers, keep_default_na=False)
    if not len(frame):
        raise TaskError(f"{where}: {answers} holds a header and no rows")
    trained, tested = (list(pd.read_csv(path, nrows=0).columns) for path in (train, test))
    ids = [column for column in frame.columns if column in tested and frame[column].is_unique]
    new = [column for column in frame.columns if column not in tested]
    if not ids or not new:
        raise TaskError(f"{where}: {answers} needs an id column that test.csv has, and a target that it has not")
    targets = [column for column in new if column in trained]
    if not targets:
        raise TaskError(f"{where}: {train} has no column '{new[0]}', which the answers have")
    return next((column for column in ids if column.lower().endswith("id")), ids[0]), targets


def _metric(text: str, meta: Mapping[str, Any], where: str) -> str:
    """The one that the record names in `metadata.metric`, else the one that its text asks for."""
    try:
        named = meta.get("metric") or asked_metric(text, meta["data_type"])
        if named not in METRICS:
            raise unknown(named)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    return named


def _check_kind(answers: str, targets: Sequence[str], kind: str, where: str) -> None:
    """Text cannot be regressed, and what is empty is no truth."""
    frame = pd.read_csv(answers, usecols=list(targets), keep_default_na=False, dtype=str)
    for target in targets:
        if kind == "regression":
            bad = ~np.isfinite(pd.to_numeric(frame[target], errors="coerce"))
            needed = "no number, which the task's metric needs; correct the answers, or metadata.metric"
        else:
            bad, needed = frame[target].str.strip().isin(["", "nan", "NaN"]), "no answer"
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise TaskError(f"{where}: {answers}, line {row + 2}: '{target}' holds '{frame[target][row]}', {needed}")
