"""Grading of a submission file against the hidden answers: aligned by id, every target, nothing filled in. Pure."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

FAIR = {"accuracy": 0.5, "f1": 0.0, "rmse_pct": 50.0}
"""What the paper counts for a failed run (arXiv 2601.23228), so that failing never beats a poor model."""

METRICS = {
    "classification": {
        "auc": r"area under the (roc|receiver)|\bauc\b|roc[- ]auc",
        "log_loss": r"log ?loss|logarithmic loss",
        "f1": r"\bf1\b",
        "accuracy": r"accuracy",
    },
    "regression": {
        "rmsle": r"rmsle|root mean squared? log",
        "rmse": r"rmse|root mean squared? error",
        "mae": r"\bmae\b|mean absolute error",
    },
}
"""Metrics that tasks are scored by, and the words that name them in a task's text, looked for in this order."""
DEFAULT = {"classification": "accuracy", "regression": "rmse"}
_ERRORS = {"rmse", "mae", "rmsle", "log_loss"}
"""Less is better."""

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


def asked_metric(text: str, kind: str) -> str:
    """The metric that a task's text says its submissions are scored by; the kind's default where it names none."""
    return next((name for name, words in METRICS[kind].items() if re.search(words, text, re.IGNORECASE)), DEFAULT[kind])


def measure(
    truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame, kind: str, metric: str | None = None
) -> dict[str, float]:
    """All measures that the task allows, averaged over target columns, and `skill`.

    Args:
        truth: target columns.
        predicted: the same columns and rows, as text.
        train: the target columns of the training rows, for the floor: a constant prediction.
        kind: `classification` or `regression`.
        metric: what the task scores by, one of METRICS[kind]; None = the kind's default, as where the truth does not
            allow it (auc of three classes).

    Returns:
        classification: accuracy, f1 (binary, else weighted), and where the predictions are probabilities or the task
        asks for them auc and log_loss. regression: rmse, rmse_pct (percent of the range of the truth), mae, rmsle where
        nothing is negative. `floor` is the metric of a constant, `skill` on 0-1 the metric's share of the way from
        there to perfection.

    Raises:
        SubmissionError: a prediction is empty, or not a number where one is needed.
    """
    metric = metric or DEFAULT[kind]
    if kind == "regression":
        columns = [_regression(truth[c], _numbers(predicted[c]), train[c], metric) for c in truth.columns]
    elif _one_hot(truth):
        columns = [_one_hot_classification(truth, predicted, train, metric)]
    else:
        columns = [_classification(truth[c], predicted[c], train[c], metric) for c in truth.columns]
    shared = set.intersection(*(set(column) for column in columns))
    return {key: float(np.mean([column[key] for column in columns])) for key in columns[0] if key in shared}


def _regression(truth: pd.Series, predicted: np.ndarray, train: pd.Series, metric: str) -> dict[str, float]:
    true = truth.to_numpy(float)
    if metric == "rmsle" and true.min() < 0:
        metric = "rmse"
    found = _errors(true, predicted)
    if metric not in found:
        raise SubmissionError(f"'{truth.name}' holds numbers below 0, which {metric} cannot score")
    if metric == "rmsle":
        constant = np.expm1(np.log1p(train.clip(lower=0)).mean())
    else:
        constant = train.median() if metric == "mae" else train.mean()
    return found | _skill(metric, found, _errors(true, np.full(len(true), float(constant))))


def _errors(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    rmse = float(np.sqrt(np.mean((true - predicted) ** 2)))
    found = {"rmse": rmse, "mae": float(np.mean(np.abs(true - predicted)))}
    spread = float(true.max() - true.min())
    if spread > 0:
        found["rmse_pct"] = 100.0 * rmse / spread
    if true.min() >= 0 and predicted.min() >= 0:
        found["rmsle"] = float(np.sqrt(np.mean((np.log1p(true) - np.log1p(predicted)) ** 2)))
    return found


def _classification(truth: pd.Series, predicted: pd.Series, train: pd.Series, metric: str) -> dict[str, float]:
    from sklearn import metrics

    true, known = truth.map(_id), train.map(_id)
    labels = sorted(set(true) | set(known))
    found: dict[str, float] = {}
    floors = {"auc": 0.5}
    hard = bool(predicted.map(_id).isin(labels).all())
    if labels == ["0", "1"] and (not hard or metric in ("auc", "log_loss")):
        shares = _numbers(predicted)
        if shares.min() < 0 or shares.max() > 1:
            raise SubmissionError(f"'{truth.name}' holds numbers outside 0 to 1 where labels or probabilities belong")
        positive = (true == "1").to_numpy()
        if positive.any() and not positive.all():
            found["auc"] = float(metrics.roc_auc_score(positive, shares))
        found["log_loss"] = _log_loss(positive, shares)
        floors["log_loss"] = _log_loss(positive, np.full(len(true), float((known == "1").mean())))
        said = pd.Series(np.where(shares >= 0.5, "1", "0"))
    else:
        said = predicted.map(_id)
        if (said == "").any():
            raise SubmissionError(f"'{truth.name}' is empty in {int((said == '').sum())} rows")
    found |= _agreement(true, said, labels)
    floors["accuracy"] = float((true == known.mode()[0]).mean())
    if metric == "f1":
        best = labels[-1] if len(labels) == 2 else true.mode()[0]  # the positive label, or the most frequent one
        floors["f1"] = _agreement(true, pd.Series(best, index=true.index), labels)["f1"]
    return found | _skill(metric if metric in found and metric in floors else "accuracy", found, floors)


def _agreement(true: pd.Series, said: pd.Series, labels: Sequence[str]) -> dict[str, float]:
    from sklearn import metrics

    binary = len(labels) == 2 and set(said) <= set(labels)
    average = {"average": "binary", "pos_label": labels[-1]} if binary else {"average": "weighted"}
    return {
        "accuracy": float((said.to_numpy() == true.to_numpy()).mean()),
        "f1": float(metrics.f1_score(true, said, zero_division=0.0, **average)),
    }


def _log_loss(positive: np.ndarray, shares: np.ndarray) -> float:
    from sklearn import metrics

    return float(metrics.log_loss(positive, np.clip(shares, 1e-15, 1 - 1e-15), labels=[False, True]))


def _skill(metric: str, found: dict[str, float], floors: dict[str, float]) -> dict[str, float]:
    """`floor` and `skill` by the metric; perfection is 1, or 0 for errors."""
    floor, value = floors[metric], found[metric]
    skill = _share(floor - value, floor) if metric in _ERRORS else _share(value - floor, 1.0 - floor)
    return {"floor": floor, "skill": skill}


def _one_hot(truth: pd.DataFrame) -> bool:
    """Whether the target columns are the indicators of one class each."""
    if truth.shape[1] < 2:
        return False
    values = truth.apply(pd.to_numeric, errors="coerce")
    return bool(values.isin([0, 1]).all(axis=None) and (values.sum(axis=1) == 1).all())


def _one_hot_classification(
    truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame, metric: str
) -> dict[str, float]:
    from sklearn import metrics

    classes = list(truth.columns)
    true = truth.to_numpy(float).argmax(axis=1)
    shares = np.column_stack([_numbers(predicted[c]) for c in classes])
    if shares.min() < 0 or (shares.sum(axis=1) <= 0).any():
        raise SubmissionError("the class columns hold negative numbers, or rows without any share")
    shares = shares / shares.sum(axis=1, keepdims=True)
    known = train[classes].to_numpy(float).mean(axis=0)

    def log_loss(of_true: np.ndarray) -> float:
        return float(-np.log(np.clip(of_true, 1e-15, 1.0)).mean())

    said = shares.argmax(axis=1)
    found = {
        "accuracy": float((said == true).mean()),
        "f1": float(metrics.f1_score(true, said, average="weighted", zero_division=0.0)),
        "log_loss": log_loss(shares[np.arange(len(true)), true]),
    }
    floors = {"accuracy": float((true == known.argmax()).mean()), "log_loss": log_loss(known[true])}
    return found | _skill(metric if metric in floors else "accuracy", found, floors)


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
