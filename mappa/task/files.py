"""Records of .json, .jsonl, .csv and .parquet files and of datasets on the hub, each with where it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mappa.errors import TaskError
from mappa.hub import unreachable


def read_records(path: str, config: str | None, split: str) -> list[tuple[str, Any]]:
    """Each with where it stands; a line that cannot be read is its error.

    Args:
        path: of a file, or a dataset id on the hub, to which alone `config` and `split` apply.

    Raises:
        TaskError: nothing can be read.
    """
    reader = _READERS.get(Path(path).suffix.lower())
    if reader is None:
        return [(f"{path}, record {index}", record) for index, record in enumerate(_hub_records(path, config, split))]
    if not Path(path).is_file():
        raise TaskError(f"{path}: no such file (looked from {Path.cwd()}); set the source's path, or task.data_dir")
    try:
        return [(f"{path}, {place}", record) for place, record in reader(Path(path))]
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: not readable as {Path(path).suffix[1:]}: {one_line(error)}") from error


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    records = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(records, list):
        raise ValueError(f"a list of records is needed, not {type(records).__name__}")
    return _numbered(records)


def jsonl_records(path: Path) -> Iterator[tuple[str, Any]]:
    """`line N` and what is on it, blank lines left out; a line that is not JSON is its error."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", error


def _csv_records(path: Path) -> Iterator[tuple[str, Any]]:
    """`line N`, where the record ends, and its fields by the header's names; one that has too many is its error."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            for row in rows:
                extra = row.pop(None, None)
                too_many = ValueError(f"more fields than the header's {len(row)}")
                yield f"line {rows.line_num}", row if extra is None else too_many
        except csv.Error as error:
            yield f"line {rows.line_num}", error


def _parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    return _numbered(parquet.read_table(path).to_pylist())


def _numbered(records: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"record {index}", record) for index, record in enumerate(records))


_READERS: Mapping[str, Callable[[Path], Iterable[tuple[str, Any]]]] = {
    ".json": _json_records,
    ".jsonl": jsonl_records,
    ".csv": _csv_records,
    ".parquet": _parquet_records,
}


def _hub_records(dataset: str, config: str | None, split: str) -> Iterable[Any]:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    known = HF_HUB_OFFLINE or Path(dataset).exists()
    reason = None if known else unreachable(dataset, "README.md", "dataset")
    if reason:
        raise TaskError(
            f"dataset {dataset} cannot be had from the hub: {reason} (give a .json, .jsonl, .csv or .parquet file; or, "
            "if it was loaded here before, export HF_HUB_OFFLINE=1)"
        )
    from datasets import load_dataset

    try:
        return load_dataset(dataset, name=config, split=split)
    except Exception as error:  # boundary: the hub's client raises errors of many libraries
        raise TaskError(
            f"dataset {dataset} (split {split}) cannot be loaded: {one_line(error)}; "
            "check the id and the network, or give a .json, .jsonl, .csv or .parquet file"
        ) from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
