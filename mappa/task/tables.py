"""Tasks from the real tables that ship with scikit-learn, written to disk in DSBench's layout.

For trying things out, not for benchmarks: agents' kernels have scikit-learn too, so code that looks for it finds the
targets there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mappa.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """One prediction problem on one table."""

    loader: str
    """Function of `sklearn.datasets`."""
    kind: str
    about: str
    target: str | None = None
    """A column of the table to be predicted from the others; None = the table's own target."""


TABLES = {
    "breast_cancer": Table("load_breast_cancer", "classification", "cell nuclei in images of breast tissue"),
    "digits": Table("load_digits", "classification", "handwritten digits as 8x8 grey values"),
    "iris": Table("load_iris", "classification", "flowers of three iris species"),
    "wine": Table("load_wine", "classification", "chemical analyses of wines from three growers"),
    "diabetes": Table("load_diabetes", "regression", "diabetes patients and the disease's progress in a year"),
    "iris_petal": Table("load_iris", "regression", "measurements of iris flowers", "petal width (cm)"),
    "wine_colour": Table("load_wine", "regression", "chemical analyses of wines", "color_intensity"),
    "cancer_area": Table("load_breast_cancer", "regression", "measurements of cell nuclei", "mean area"),
}

TEXT = """Predict `{target}` for each row of test.csv.

The data describe {about}. This is a {kind} task: {metric}.

Files
- train.csv: {train} rows with `id`, {features} feature columns and `{target}`
- test.csv: {test} rows with `id` and the same features
- sample_submission.csv: the format of a submission

Write submission.csv with the columns `id,{target}` and one row for every id of test.csv."""
METRIC = {
    "classification": "submissions are scored by accuracy",
    "regression": "submissions are scored by the root mean squared error",
}


def same_data(some: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """A table of `some` and one of `others` that are made of the same rows, if there are such."""
    pairs = ((a, b) for a in some for b in others if a in TABLES and b in TABLES)
    return next((pair for pair in pairs if TABLES[pair[0]].loader == TABLES[pair[1]].loader), None)


def write_tables(folder: Path, names: Iterable[str], splits: int, seed: int, test_share: float) -> list[dict[str, Any]]:
    """Write `splits` tasks a table, each with its own split of the rows; returns DSBench records.

    Writing again with the same arguments changes nothing.

    Raises:
        ConfigError: an unknown table.
    """
    records = []
    for name in names:
        if name not in TABLES:
            raise ConfigError(f"task: unknown table '{name}'; available: {', '.join(sorted(TABLES))}")
        for split in range(splits):
            records.append(_write(folder, name, split, seed, test_share))
    return records


def _write(folder: Path, name: str, split: int, seed: int, test_share: float) -> dict[str, Any]:
    import numpy as np

    table, task_id = TABLES[name], f"{name}-{split}"
    frame, target = _load(table)
    digest = hashlib.sha256(f"{seed}/{task_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    frame = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
    frame.insert(0, "id", rng.permutation(np.arange(1000, 1000 + len(frame))))
    cut = round(len(frame) * test_share)
    test, train = frame[:cut], frame[cut:]
    sample = test[["id"]].assign(**{target: train[target].iloc[0]})
    paths = {
        "train_file": (folder / "data" / task_id / "train.csv", train),
        "test_file": (folder / "data" / task_id / "test.csv", test.drop(columns=target)),
        "sample_file": (folder / "data" / task_id / "sample_submission.csv", sample),
        "answer_dir": (folder / "answers" / task_id / "test_answer.csv", test[["id", target]]),
    }
    for path, content in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        content.to_csv(partial, index=False)
        partial.replace(path)
    text = TEXT.format(
        target=target,
        about=table.about,
        kind=table.kind,
        metric=METRIC[table.kind],
        train=len(train),
        test=len(test),
        features=frame.shape[1] - 2,
    )
    files = {key: str(path.parent if key == "answer_dir" else path) for key, (path, _) in paths.items()}
    return {"prompt": text, "metadata": {"task_id": task_id, "data_type": table.kind, "cluster": name} | files}


@functools.cache
def _load(table: Table) -> tuple[pd.DataFrame, str]:
    """The table with plain column names, and the name of its target."""
    from sklearn import datasets

    frame = getattr(datasets, table.loader)(as_frame=True).frame
    own = "target"
    if table.target is not None:
        frame, own = frame.drop(columns="target"), table.target
    plain = {column: "".join(c if c.isalnum() else "_" for c in str(column)).strip("_") for column in frame.columns}
    return frame.rename(columns=plain), plain[own]
