"""Records from files or the hub -> training and validation tasks that never overlap."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mappa.errors import ConfigError, TaskError
from mappa.task.files import one_line, read_records
from mappa.task.overlap import normalised, refuse_overlap, twins
from mappa.types import Task

SHOWN = 20
"""Bad records that one line tells of."""


@dataclass(frozen=True)
class Source:
    """Where a set of problems comes from."""

    path: str | None = None
    """A .json (a list), .jsonl, .csv (with a header) or .parquet file, or a dataset id on the hub; None = no set."""
    file: str | None = None
    """Name of the set's copy in the task's `data_dir`; read instead of `path` when `data_dir` is given."""
    config: str | None = None
    """Hub only: the dataset's configuration."""
    split: str = "train"
    """Hub only."""
    question: str | Sequence[str] = ("prompt", "problem", "question", "Question", "Problem")
    """Field of the problem's text; of several names the first that a record has."""
    answer: str | Sequence[str] = ("answer", "Answer", "expected_answer")
    """Field of the true answer: text or number."""
    after: str | None = None
    """The true answer is what follows the last such mark in its field, e.g. `####` in GSM8K's solutions."""
    id: str | Sequence[str] = ("id", "ID", "unique_id")
    """Field of the record's id; without one the id is made from the problem's text."""
    kind: str | None = None
    """Field of the stratum (e.g. `level`); without one it is the set's name."""
    cluster: str | None = None
    """Field of what a problem shares with others (e.g. its text): such problems are no independent observations."""
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Field -> values; records with another value are left out, e.g. `level: [1, 2, 3]`."""
    limit: int | None = None
    """Take this many problems, drawn without replacement with `seed`, in file order."""
    seed: int = 42


class RecordTasks(ABC):
    """Training and validation sets; a kind of task says what a record becomes (`task`)."""

    def __init__(
        self,
        name: str,
        train: Source | Mapping[str, Any] | None,
        validation: Mapping[str, Source | Mapping[str, Any]] | None,
        data_dir: str | None,
        drop_overlap: bool,
    ) -> None:
        """
        Args:
            data_dir: folder with local copies of the sets (each source's `file`); None = read each source's `path`.
            drop_overlap: leave training problems out that are also validation problems, instead of refusing to start.
        """
        self.name = name
        self._train = _source(train, f"task.{name}.train")
        self._validation = {
            key: _source(value, f"task.{name}.validation.{key}") for key, value in (validation or {}).items()
        }
        self._data_dir = data_dir
        self._drop_overlap = drop_overlap

    @abstractmethod
    def task(self, record: Mapping[str, Any], source: Source, name: str, where: str) -> Task:
        """One record of set `name`; `where` it stands is for error messages.

        Raises:
            TaskError: it lacks what is needed.
        """

    def train(self) -> Sequence[Task]:
        """Training tasks, in file order.

        Raises:
            TaskError: there is no training set, it is unusable, or shares problems with a validation set.
        """
        return self._sets[0]

    def validation(self) -> Mapping[str, Sequence[Task]]:
        """Name -> held-out tasks.

        Raises:
            TaskError: a set is unusable, or shares problems with the training set.
        """
        return self._held_out if self._train is None else self._sets[1]

    @cached_property
    def _held_out(self) -> dict[str, tuple[Task, ...]]:
        return {key: _sample(self._tasks(source, key), source) for key, source in self._validation.items() if source}

    @cached_property
    def _sets(self) -> tuple[tuple[Task, ...], dict[str, tuple[Task, ...]]]:
        if self._train is None:
            raise TaskError(f"task {self.name} has no training set; set task.train.path, or use it with mappa.evaluate")
        pool = self._tasks(self._train, self.name)
        if self._drop_overlap:
            held_out = [task for tasks in self._held_out.values() for task in tasks]
            same = {twin.id for _, twin in twins(pool, held_out)}
            pool = [task for task in pool if task.id not in same]
        train = _sample(pool, self._train)
        for key, tasks in self._held_out.items():
            refuse_overlap(train, tasks, key)
        return train, self._held_out

    def _tasks(self, source: Source, name: str) -> list[Task]:
        local = self._data_dir is not None and source.file is not None
        path = str(Path(self._data_dir) / source.file) if local else source.path
        if path is None:
            raise TaskError(f"{name}: {source.file} is looked for in task.data_dir, which is not set (MAPPA_DATA)")
        tasks, bad, records = [], [], read_records(path, source.config, source.split)
        for at, record in records:
            try:
                if isinstance(record, Exception):
                    raise TaskError(f"{at}: not readable as {Path(path).suffix[1:]}: {one_line(record)}")
                if _wanted(record, source, at):
                    tasks.append(self.task(record, source, name, at))
            except TaskError as error:
                bad.append(str(error))
        refuse_bad(bad, len(records))
        if not tasks:
            raise TaskError(f"{path}: no records" + (f" where {dict(source.where)}" if records else ""))
        seen: set[str] = set()
        for task in tasks:
            if task.id in seen:
                raise TaskError(f"{path}: two records have the id {task.id}; name another field in {name}'s `id`")
            seen.add(task.id)
        return tasks


def refuse_bad(errors: Sequence[str], records: int) -> None:
    """Raise `TaskError` with what is wrong with each of the bad records, in one line."""
    if len(errors) == 1:
        raise TaskError(errors[0])
    if errors:
        more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise TaskError(f"{len(errors)} of {records} records are unusable: {'; '.join(errors[:SHOWN])}{more}")


def _source(value: Source | Mapping[str, Any] | None, where: str) -> Source | None:
    if value is not None and not isinstance(value, Source):
        unknown = sorted(set(value) - set(Source.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"{where}: unknown key {unknown[0]}; known: {', '.join(Source.__dataclass_fields__)}")
        value = Source(**value)
    if value is not None and value.limit is not None and not (type(value.limit) is int and value.limit >= 1):
        raise ConfigError(f"{where}: limit={value.limit} must be a whole number of at least 1")
    return value if value is not None and (value.path or value.file) else None


def _sample(tasks: Sequence[Task], source: Source) -> tuple[Task, ...]:
    if source.limit is None or source.limit >= len(tasks):
        return tuple(tasks)
    chosen = np.random.RandomState(source.seed).choice(len(tasks), source.limit, replace=False)
    return tuple(tasks[index] for index in sorted(chosen))


def _wanted(record: Any, source: Source, where: str) -> bool:
    if not isinstance(record, Mapping):
        raise TaskError(f"{where}: a record is an object with named fields, not {type(record).__name__}")
    missing = [key for key in source.where if key not in record]
    if missing:
        raise TaskError(f"{where}: no field {missing[0]}, which `where` asks for; it has {', '.join(map(str, record))}")
    return all(record[key] in values for key, values in source.where.items())


def question_of(record: Mapping[str, Any], source: Source, where: str) -> str:
    return text_of(field_of(record, source.question, "question", where), where)


def kind_of(record: Mapping[str, Any], source: Source, name: str, where: str) -> str:
    """The stratum: the set's name where the source names no field."""
    return name if source.kind is None else text_of(field_of(record, source.kind, "kind", where), where)


def cluster_of(record: Mapping[str, Any], source: Source, where: str) -> str:
    """Empty where the source names no field."""
    return "" if source.cluster is None else text_of(field_of(record, source.cluster, "cluster", where), where)


def identity(record: Mapping[str, Any], source: Source, question: str) -> str:
    """The record's own id, else one made from the problem's text."""
    found = next((record[key] for key in names_of(source.id) if record.get(key) is not None), None)
    return hashlib.sha256(normalised(question).encode()).hexdigest()[:12] if found is None else str(found)


def names_of(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def field_of(record: Mapping[str, Any], names: str | Sequence[str], what: str, where: str) -> Any:
    for key in names_of(names):
        if record.get(key) is not None:
            return record[key]
    raise TaskError(
        f"{where}: no {what} (looked for {', '.join(names_of(names))}; the record has {', '.join(map(str, record))}); "
        f"name the field with `{what}`"
    )


def text_of(value: Any, where: str) -> str:
    """Whole numbers lose their `.0`: some files hold answers as 142.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    not_finite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool) or not_finite or not isinstance(value, str | int | float) or not str(value).strip():
        raise TaskError(f"{where}: a field holds {value!r}, where text or a number is needed")
    return str(value).strip()
