"""Grading of a submission file against the hidden answers: aligned by id, every target, nothing filled in. Pure."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics

FAIR = {"accuracy": 0.5, "f1": 0.0, "rmse_pct": 50.0}
"""What the paper counts for a failed run (arXiv 2601.23228), so that failing never beats a poor model."""

MAX_COLUMNS = 1000
_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")


class SubmissionError(ValueError):
    """The submission cannot be graded; the message is the reason, in one line."""


def read_submission(data: bytes, answers: pd.DataFrame, id_column: str) -> pd.DataFrame:
    """The submission's target columns, one row for each row of `answers` and in its order.

    Args:
        data: the CSV file as the agents left it.
        answers: id column and all target columns.

    Raises:
        SubmissionError: not a CSV file, a column is missing, or ids are missing, unknown or repeated.
    """
    if data[: data.find(b"\n")].count(b",") >= MAX_COLUMNS:
        raise SubmissionError(f"submission.csv has more than {MAX_COLUMNS} columns")
    try:
        frame = pd.read_csv(io.BytesIO(data), skipinitialspace=True, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SubmissionError(f"submission.csv is not a CSV file: {str(error).splitlines()[0]}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    missing = [column for column in answers.columns if column not in frame.columns]
    if missing:
        raise SubmissionError(f"submission.csv has no column '{missing[0]}' (it has {', '.join(frame.columns[:8])})")
    ids = frame[id_column].map(_id)
    wanted = answers[id_column].map(_id)
    if ids.duplicated().any():
        raise SubmissionError(f"submission.csv repeats {int(ids.duplicated().sum())} ids")
    absent, unknown = ~wanted.isin(ids), ~ids.isin(wanted)
    if absent.any() or unknown.any():
        raise SubmissionError(
            f"submission.csv misses {int(absent.sum())} of {len(wanted)} ids and has {int(unknown.sum())} unknown ones"
        )
    return frame.set_index(ids).loc[wanted, [c for c in answers.columns if c != id_column]].reset_index(drop=True)


def measure(truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame, kind: str) -> dict[str, float]:
    """All measures that the task allows, averaged over target columns, and `skill`.

    Args:
        truth: target columns.
        predicted: the same columns and rows, as text.
        train: the target columns of the training rows, for the floor: a constant prediction.
        kind: `classification` or `regression`.

    Returns:
        classification: accuracy, f1 (binary, else weighted), floor (accuracy of the most frequent class), and where the
        predictions are probabilities auc and log_loss. regression: rmse, rmse_pct (percent of the range of the truth),
        mae, rmsle where nothing is negative, floor (rmse of the training mean). `skill` on 0-1: the share of the way
        from the floor to perfection.

    Raises:
        SubmissionError: a prediction is empty, or not a number where one is needed.
    """
    if kind == "regression":
        columns = [_regression(truth[c], _numbers(predicted[c]), train[c]) for c in truth.columns]
    elif _one_hot(truth):
        columns = [_one_hot_classification(truth, predicted, train)]
    else:
        columns = [_classification(truth[c], predicted[c], train[c]) for c in truth.columns]
    shared = set.intersection(*(set(column) for column in columns))
    return {key: float(np.mean([column[key] for column in columns])) for key in columns[0] if key in shared}


def _regression(truth: pd.Series, predicted: np.ndarray, train: pd.Series) -> dict[str, float]:
    true = truth.to_numpy(float)
    rmse = float(np.sqrt(np.mean((true - predicted) ** 2)))
    floor = float(np.sqrt(np.mean((true - train.mean()) ** 2)))
    spread = float(true.max() - true.min())
    found = {"rmse": rmse, "mae": float(np.mean(np.abs(true - predicted))), "floor": floor}
    if spread > 0:
        found["rmse_pct"] = 100.0 * rmse / spread
    if true.min() >= 0 and predicted.min() >= 0:
        found["rmsle"] = float(np.sqrt(np.mean((np.log1p(true) - np.log1p(predicted)) ** 2)))
    return found | {"skill": _share(floor - rmse, floor)}


def _classification(truth: pd.Series, predicted: pd.Series, train: pd.Series) -> dict[str, float]:
    true, known = truth.map(_id), train.map(_id)
    labels = sorted(set(true) | set(known))
    floor = float((true == known.mode()[0]).mean())
    found: dict[str, float] = {}
    if labels == ["0", "1"] and not predicted.map(_id).isin(labels).all():
        shares = _numbers(predicted)
        if shares.min() < 0 or shares.max() > 1:
            raise SubmissionError(f"'{truth.name}' holds numbers outside 0 to 1 where labels or probabilities belong")
        positive = (true == "1").to_numpy()
        if positive.any() and not positive.all():
            found["auc"] = float(metrics.roc_auc_score(positive, shares))
        found["log_loss"] = float(metrics.log_loss(positive, np.clip(shares, 1e-15, 1 - 1e-15), labels=[False, True]))
        said = pd.Series(np.where(shares >= 0.5, "1", "0"))
    else:
        said = predicted.map(_id)
        if (said == "").any():
            raise SubmissionError(f"'{truth.name}' is empty in {int((said == '').sum())} rows")
    accuracy = float((said.to_numpy() == true.to_numpy()).mean())
    binary = len(labels) == 2
    average = {"average": "binary", "pos_label": labels[-1]} if binary else {"average": "weighted"}
    if binary and not set(said) <= set(labels):
        average = {"average": "weighted"}
    found["f1"] = float(metrics.f1_score(true, said, zero_division=0.0, **average))
    return {"accuracy": accuracy, "floor": floor} | found | {"skill": _share(accuracy - floor, 1.0 - floor)}


def _one_hot(truth: pd.DataFrame) -> bool:
    """Whether the target columns are the indicators of one class each."""
    if truth.shape[1] < 2:
        return False
    values = truth.apply(pd.to_numeric, errors="coerce")
    return bool(values.isin([0, 1]).all(axis=None) and (values.sum(axis=1) == 1).all())


def _one_hot_classification(truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame) -> dict[str, float]:
    classes = list(truth.columns)
    true = truth.to_numpy(float).argmax(axis=1)
    shares = np.column_stack([_numbers(predicted[c]) for c in classes])
    if shares.min() < 0 or (shares.sum(axis=1) <= 0).any():
        raise SubmissionError("the class columns hold negative numbers, or rows without any share")
    shares = shares / shares.sum(axis=1, keepdims=True)
    said = shares.argmax(axis=1)
    floor = float((true == train[classes].to_numpy(float).sum(axis=0).argmax()).mean())
    accuracy = float((said == true).mean())
    return {
        "accuracy": accuracy,
        "floor": floor,
        "f1": float(metrics.f1_score(true, said, average="weighted", zero_division=0.0)),
        "log_loss": float(-np.log(np.clip(shares[np.arange(len(true)), true], 1e-15, 1.0)).mean()),
        "skill": _share(accuracy - floor, 1.0 - floor),
    }


def _numbers(predicted: pd.Series) -> np.ndarray:
    values = pd.to_numeric(predicted, errors="coerce").to_numpy(float)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise SubmissionError(f"'{predicted.name}' is not a number in {bad} rows")
    return values


def _id(value: object) -> str:
    """Equal ids and labels are equal strings, however they were written: 7, 7.0 and ' 7' are one."""
    text = str(value).strip()
    if _INTEGER.fullmatch(text):
        return str(int(text))  # exact, also above 2**53
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if np.isfinite(number) and number == int(number) else text


def _share(part: float, whole: float) -> float:
    return float(np.clip(part / whole, 0.0, 1.0)) if whole > 0 else 0.0


def fair(metrics_found: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """`fair_<name>`: the measure, or the paper's fill where the run failed."""
    return {f"fair_{name}": metrics_found.get(name, FAIR[name]) for name in names}
