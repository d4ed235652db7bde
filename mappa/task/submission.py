"""Grading of a submission file against the hidden answers: aligned by id, every target, nothing filled in. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pandas as pd

from mappa.task.metrics import DEFAULT, METRICS, ordered

FAIR = {"accuracy": 0.5, "f1": 0.0, "rmse_pct": 50.0}
"""What the paper counts for a failed run (arXiv 2601.23228), so that failing never beats a poor model."""

MAX_COLUMNS = 1000
MAX_DIGITS = 100
_OTHER = "none of the labels"
_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,100}\.?[0-9]{0,100}|\.[0-9]{1,100})(?:[eE][+-]?[0-9]{1,3})?")


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
    frame = _parsed(data, most_rows=2 * len(answers) + 1000)
    missing = [column for column in answers.columns if column not in frame.columns]
    if missing:
        shown = ", ".join(" ".join(column.split())[:40] for column in frame.columns[:8])
        raise SubmissionError(f"submission.csv has no column '{missing[0]}' (it has {shown})")
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


def _parsed(data: bytes, most_rows: int) -> pd.DataFrame:
    """All fields as text. Row by row, so that nothing grows beyond the bounds: rows, columns, characters of a field."""
    try:
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        header = next((row for row in rows if row), [])
        if not header:
            raise SubmissionError("submission.csv is not a CSV file: it is empty")
        if len(header) > MAX_COLUMNS:
            raise SubmissionError(f"submission.csv has more than {MAX_COLUMNS} columns")
        header = [column.strip() for column in header]
        if len(set(header)) < len(header):
            raise SubmissionError("submission.csv names a column twice")
        found = []
        for row in rows:
            if not row:
                continue
            if len(row) < len(header) or any(row[len(header) :]):
                raise SubmissionError(
                    f"submission.csv is not a CSV file: line {rows.line_num} has {len(row)} fields, not {len(header)}"
                )
            found.append(row[: len(header)])
            if len(found) > most_rows:
                raise SubmissionError(f"submission.csv has more than {most_rows} rows")
    except (UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"submission.csv is not a CSV file: {str(error).splitlines()[0]}") from error
    return pd.DataFrame(found, columns=header, dtype=str)


def measure(
    truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame, kind: str, metric: str | None = None
) -> dict[str, float]:
    """All measures that the task allows, averaged over target columns, and `skill`.

    Args:
        truth: target columns.
        predicted: the same columns and rows, as text.
        train: the target columns of the training rows, for the floor: a constant prediction.
        kind: `classification` or `regression`; only asked where there is no metric.
        metric: what the task scores by, one of `metrics.METRICS`; None = the kind's default.

    Returns:
        the metric by its name; of labels also accuracy and f1 (binary, else weighted), where the predictions are
        probabilities also auc and log_loss; of numbers also rmse, rmse_pct (percent of the range of the truth), mae,
        and rmsle where nothing is negative. `floor` is the metric of a constant, `skill` on 0-1 the metric's share of
        the way from there to perfection.

    Raises:
        SubmissionError: a prediction is empty, not a number where one is needed, or beyond what the metric can score.
    """
    metric = metric or DEFAULT[kind]
    if METRICS[metric].kind == "regression":
        columns = [_regression(truth[c], _numbers(predicted[c]), train[c], metric) for c in truth.columns]
    elif _one_hot(truth):
        columns = [_one_hot_classification(truth, predicted, train, metric)]
    else:
        columns = [_classification(truth[c], predicted[c], train[c], metric) for c in truth.columns]
    shared = set.intersection(*(set(column) for column in columns))
    return {key: float(np.mean([column[key] for column in columns])) for key in columns[0] if key in shared}


def _regression(truth: pd.Series, predicted: np.ndarray, train: pd.Series, name: str) -> dict[str, float]:
    true, metric = truth.to_numpy(float), METRICS[name]
    if name == "rmsle" and (true.min() < 0 or predicted.min() < 0):
        raise SubmissionError(f"'{truth.name}' holds numbers below 0, which {name} cannot score")
    names = [name, "rmse", "mae"] + ["rmsle"] * bool(true.min() >= 0 and predicted.min() >= 0)
    with np.errstate(over="ignore", invalid="ignore"):
        found = {other: METRICS[other].score(true, predicted) for other in dict.fromkeys(names)}
    if not np.isfinite(list(found.values())).all():
        raise SubmissionError(f"'{truth.name}' holds numbers too large to be scored")
    if (spread := float(np.ptp(true))) > 0:
        found["rmse_pct"] = 100.0 * found["rmse"] / spread
    floor = metric.floor
    if metric.constant is not None:
        floor = metric.score(true, np.full(len(true), float(metric.constant(train.to_numpy(float)))))
    return found | _skill(name, found[name], floor)


def _classification(truth: pd.Series, predicted: pd.Series, train: pd.Series, name: str) -> dict[str, float]:
    true, known, said = (column.map(_id) for column in (truth, train.dropna(), predicted))
    labels, metric = ordered({*true, *known}), METRICS[name]
    hard = bool(said.isin(labels).all())
    found: dict[str, float] = {}
    if (said == "").any() and not metric.texts:
        raise SubmissionError(f"'{truth.name}' is empty in {int((said == '').sum())} rows")
    numeric = not hard and bool(pd.to_numeric(predicted, errors="coerce").notna().all())
    if len(labels) == 2 and not metric.texts and (metric.shares or numeric):
        shares = _indicators(said, labels[1:]) if hard else _numbers(predicted)[:, None]
        found = _of_shares(_indicators(true, labels[1:]), shares, _indicators(known, labels[1:]), name, truth.name)
        said = pd.Series(np.where(shares[:, 0] >= 0.5, labels[1], labels[0]))
    elif metric.shares:
        found = _of_shares(*(_indicators(column, labels) for column in (true, said, known)), name, truth.name)
    elif name == "qwk" and numeric and all(map(_is_number, labels)):
        said = _nearest(_numbers(predicted), labels)
    if not metric.texts:
        said = said.where(said.isin(labels), _OTHER)  # however many labels were made up, they are one wrong label
    first = said.str.split().str[0].fillna("") if name == "map@3" else said
    found |= {other: METRICS[other].score(list(true), list(first), labels) for other in ("accuracy", "f1")}
    if not metric.shares:
        found[name] = metric.score(list(true), list(said), labels)
        found |= _skill(name, found[name], _floor_of_labels(true, known, labels, name))
    return found


def _floor_of_labels(true: pd.Series, known: pd.Series, labels: list[str], name: str) -> float:
    metric = METRICS[name]
    if metric.constant is None:
        return metric.floor
    constant = metric.constant(list(known))
    if name == "f1":
        constant = labels[-1] if len(labels) == 2 else true.mode()[0]  # the positive label, or the most frequent one
    return metric.score(list(true), [constant] * len(true), labels)


def _one_hot(truth: pd.DataFrame) -> bool:
    """Whether the target columns are the indicators of one class each."""
    if truth.shape[1] < 2:
        return False
    values = truth.apply(pd.to_numeric, errors="coerce")
    return bool(values.isin([0, 1]).all(axis=None) and (values.sum(axis=1) == 1).all())


def _one_hot_classification(
    truth: pd.DataFrame, predicted: pd.DataFrame, train: pd.DataFrame, name: str
) -> dict[str, float]:
    classes = list(truth.columns)
    true_RK, known_RK = truth.to_numpy(float), train[classes].to_numpy(float)
    shares_RK = np.column_stack([_numbers(predicted[c]) for c in classes])
    found = _of_shares(true_RK, shares_RK, known_RK, name, ", ".join(map(str, classes[:3])))
    true, said = ([classes[k] for k in values.argmax(axis=1)] for values in (true_RK, shares_RK))
    found |= {other: METRICS[other].score(true, said, classes) for other in ("accuracy", "f1")}
    if not METRICS[name].shares:
        likeliest = [classes[known_RK.mean(axis=0).argmax()]] * len(true)
        found[name] = METRICS[name].score(true, said, classes)
        found |= _skill(name, found[name], METRICS[name].score(true, likeliest, classes))
    return found


def _of_shares(
    true_RK: np.ndarray, shares_RK: np.ndarray, known_RK: np.ndarray, name: str, column: object
) -> dict[str, float]:
    """auc and log_loss, the metric where it is of this kind, and the skill by it."""
    metric, probable = METRICS[name], bool((shares_RK >= 0).all() and (shares_RK.sum(axis=1) > 0).all())
    if shares_RK.shape[1] == 1:
        probable = bool(((shares_RK >= 0) & (shares_RK <= 1)).all())
    if not probable and name not in ("auc", "gini"):
        raise SubmissionError(f"'{column}' holds numbers outside 0 to 1 where labels or probabilities belong")
    names = ["auc"] + ["log_loss"] * probable + [name] * metric.shares
    found = {other: METRICS[other].score(true_RK, shares_RK) for other in dict.fromkeys(names)}
    found = {other: value for other, value in found.items() if np.isfinite(value)}
    if not metric.shares:
        return found
    if name not in found:
        raise SubmissionError(f"'{column}' has one label only, which {name} cannot score")
    floor = metric.floor
    if metric.constant is not None:
        floor = metric.score(true_RK, np.tile(metric.constant(known_RK), (len(true_RK), 1)))
    return found | _skill(name, found[name], floor)


def _indicators(column: pd.Series, labels: Sequence[str]) -> np.ndarray:
    """RK: 1.0 where row r holds label k."""
    return (column.to_numpy()[:, None] == np.array(labels, dtype=object)[None, :]).astype(float)


def _nearest(numbers: np.ndarray, labels: Sequence[str]) -> pd.Series:
    """The label nearest to each number: of ordered classes a model may have said something between."""
    distances_RK = np.abs(numbers[:, None] - np.array([float(label) for label in labels])[None, :])
    return pd.Series([labels[k] for k in distances_RK.argmin(axis=1)])


def _skill(name: str, value: float, floor: float) -> dict[str, float]:
    """`floor` and `skill` by the metric; perfection is 1, or 0 for errors."""
    skill = _share(floor - value, floor) if METRICS[name].less_is_better else _share(value - floor, 1.0 - floor)
    return {"floor": floor, "skill": skill}


def _numbers(predicted: pd.Series) -> np.ndarray:
    values = pd.to_numeric(predicted, errors="coerce").to_numpy(float)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise SubmissionError(f"'{predicted.name}' is not a number in {bad} rows")
    return values


def _id(value: object) -> str:
    """Equal ids and labels are equal strings, however they were written: 7, 7.0 and ' 7' are one, True and true."""
    text = str(value).strip()
    if _INTEGER.fullmatch(text):
        return str(int(text))
    if _DECIMAL.fullmatch(text) and abs((number := Decimal(text)).adjusted()) <= MAX_DIGITS:
        return format(number, "f").rstrip("0").rstrip(".") if number else "0"  # exact, also above 2**53
    return text.lower() if text.lower() in ("true", "false") else text


def _is_number(label: str) -> bool:
    return _INTEGER.fullmatch(label) is not None or _DECIMAL.fullmatch(label) is not None


def _share(part: float, whole: float) -> float:
    return float(np.clip(part / whole, 0.0, 1.0)) if whole > 0 else 0.0


def fair(metrics_found: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """`fair_<name>`: the measure, or the paper's fill where the run failed."""
    return {f"fair_{name}": metrics_found.get(name, FAIR[name]) for name in names}
