"""What the files that an agent has to leave really hold, seen in its kernel when its act is over.

The code runs in the episode's own kernel, confined as the agent's is, in a namespace of its own; agents are told
nothing of it. It can be fooled by an agent that changes the libraries in its kernel: it serves judges of teams that
learn to work, not of adversaries.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = 30.0
_SOURCE = r'''
import contextlib, hashlib, io, json, os, pickle, warnings
import numpy as np
import pandas as pd

def read(name):
    if name.endswith(".csv"):
        return pd.read_csv(name)
    if name.endswith(".parquet"):
        return pd.read_parquet(name)
    return pd.read_pickle(name)

def given(name):
    return pd.read_csv(name) if os.path.isfile(name) and name.endswith(".csv") else None

TABLES = {name: table for name in GIVEN if (table := given(name)) is not None}
TRAIN, TEST = TABLES.get("train.csv"), TABLES.get("test.csv")
TARGETS = [c for c in TRAIN if c not in TEST] if TRAIN is not None and TEST is not None else []

def digest(names):
    return hashlib.sha256(json.dumps([str(n) for n in names]).encode()).hexdigest()[:12]

def same(left, right):
    left, right = pd.Series(np.asarray(left)), pd.Series(np.asarray(right))
    if len(left) != len(right):
        return "no"
    try:
        close = np.isclose(left.astype(float), right.astype(float), equal_nan=True)
        sort = lambda s: np.sort(s.astype(float))
    except (TypeError, ValueError):
        close = left.astype(str).to_numpy() == right.astype(str).to_numpy()
        sort = lambda s: np.sort(s.astype(str))
    if close.all():
        return "same"
    return "shuffled" if np.array_equal(sort(left), sort(right), equal_nan=False) else "no"

def order(frame):
    """Of its rows against those of a given table with as many, by the columns that were left as they are."""
    for table in TABLES.values():
        shared = [c for c in frame if c in table and table[c].nunique() > 2] if len(table) == len(frame) else []
        found = [same(frame[c], table[c]) for c in shared]
        if "same" in found:
            return "same"
        if "shuffled" in found:
            return "shuffled"
    return "unknown"

def frame(value):
    table = pd.DataFrame(value)
    numbers = table.select_dtypes(["number", "bool"])
    named = isinstance(value, pd.DataFrame)
    return {
        "kind": "table",
        "rows": len(table),
        "width": table.shape[1],
        "columns": digest(table.columns) if named else None,
        "nulls": int(table.isna().sum().sum()),
        "infinite": int(np.isinf(numbers.astype(float)).sum().sum()) if numbers.shape[1] else 0,
        "text": table.shape[1] - numbers.shape[1],
        "leaks": any(same(table[c], TRAIN[t]) == "same" for c in table for t in TARGETS) if len(table) else False,
        "order": order(table) if named else "unknown",
    }

def column(value):
    values = pd.Series(np.asarray(value).ravel())
    counts = {"rows": len(values), "nulls": int(values.isna().sum()), "distinct": int(values.nunique())}
    against = [same(values, TRAIN[t]) for t in TARGETS] if TRAIN is not None else []
    other = TRAIN is not None and any(same(values, TRAIN[c]) == "same" for c in TRAIN if c not in TARGETS)
    best = next((word for word in ("same", "shuffled") if word in against), "other" if other else "unknown")
    return {"kind": "column", "target": best} | counts

def model(value, tables):
    names = getattr(value, "feature_names_in_", None)
    found = {"kind": "model", "type": type(value).__name__, "fitted": None, "predicts": {}}
    try:
        from sklearn.base import BaseEstimator
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
        if isinstance(value, BaseEstimator):
            try:
                check_is_fitted(value)
                found["fitted"] = True
            except NotFittedError:
                found["fitted"] = False
    except ImportError:
        pass
    with contextlib.suppress(Exception):
        found["width"] = int(value.n_features_in_)
    found["columns"] = digest(names) if names is not None else None
    for name, table in tables.items():
        try:
            said = np.asarray(value.predict(table[:3]))
            found["predicts"][name] = "" if len(said) == min(3, len(table)) else "other rows"
        except Exception as error:
            found["predicts"][name] = f"{type(error).__name__}: {error}"[:200]
    return found

def look(name, tables):
    if not os.path.isfile(name):
        return {"kind": "missing"}
    try:
        value = read(name)
    except Exception as error:
        return {"kind": "unreadable", "error": type(error).__name__}
    if hasattr(value, "predict"):
        return model(value, tables)
    if isinstance(value, pd.DataFrame) or (isinstance(value, np.ndarray) and value.ndim == 2):
        if not (name.startswith("y") and value.shape[1] == 1):
            if not name.endswith(".csv"):
                tables[name] = value
            return frame(value)
    if isinstance(value, (pd.DataFrame, pd.Series, np.ndarray, list)):
        return column(value)
    return {"kind": "other", "type": type(value).__name__}

found, tables = {"given": {name: len(table) for name, table in TABLES.items()}}, {}
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")
    for name in sorted(ASKED, key=lambda name: "model" in name):  # it is tried on the tables
        found[name] = look(name, tables)
print(MARK + json.dumps(found))
'''


def code(artifacts: Sequence[str], given: Sequence[str]) -> tuple[str, str]:
    """What is to be run, and the mark of the line that answers."""
    mark = secrets.token_hex(8)
    names = {"ASKED": sorted(artifacts), "GIVEN": sorted(given), "MARK": mark}
    return f"exec({_SOURCE!r}, {names!r})", mark


def answer(said: str, mark: str) -> Mapping[str, Any] | None:
    """File -> what it holds, and under `given` the rows of the task's own tables; None where the probe did not end."""
    lines = [line.removeprefix(mark) for line in said.splitlines() if line.startswith(mark)]
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
