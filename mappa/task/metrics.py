"""The metrics that modelling tasks are scored by: how a task's text names them, and how they are computed. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mappa.errors import TaskError

Labels = Sequence[str]
"""One a row; R rows, K classes."""


@dataclass(frozen=True)
class Metric:
    """One metric, for one target column."""

    kind: str
    """`classification` (of labels, texts or shares) or `regression`."""
    words: str
    """Pattern of what a task's text calls it."""
    score: Callable[..., float]
    """regression: (true_R, predicted_R); shares: (indicators_RK, shares_RK); else (true, said, all labels)."""
    less_is_better: bool = False
    shares: bool = False
    """It looks at probabilities, or at their order, not at labels."""
    texts: bool = False
    """A prediction is no label but a text, or several labels."""
    constant: Callable[..., object] | None = None
    """What to predict everywhere, from the training rows; None = a constant scores `floor`, whatever it is."""
    floor: float = 0.0


def _auc(positive_RK: np.ndarray, shares_RK: np.ndarray) -> float:
    """Mean over the columns that hold both; nan without any."""
    from sklearn import metrics

    both = [k for k in range(positive_RK.shape[1]) if 0 < positive_RK[:, k].mean() < 1]
    areas = [metrics.roc_auc_score(positive_RK[:, k], shares_RK[:, k]) for k in both]
    return float(np.mean(areas)) if areas else float("nan")


def _log_loss(positive_RK: np.ndarray, shares_RK: np.ndarray) -> float:
    """Of one column the binary loss, of several that of the true class; rows need not add up to 1."""
    if positive_RK.shape[1] == 1:
        positive_RK, shares_RK = (np.hstack([1 - values, values]) for values in (positive_RK, shares_RK))
    shares_RK = shares_RK / np.maximum(shares_RK.sum(axis=1, keepdims=True), 1e-300)
    return float(-np.log(np.clip((shares_RK * positive_RK).sum(axis=1), 1e-15, 1 - 1e-15)).mean())


def _sklearn(name: str, **settings: object) -> Callable[..., float]:
    def score(true: Sequence, predicted: Sequence, labels: Labels = ()) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(true, predicted, **settings))

    return score


def _correlation(name: str) -> Callable[..., float]:
    def score(true: np.ndarray, predicted: np.ndarray) -> float:
        """0 where either side is constant: it orders nothing."""
        from scipy import stats

        if np.ptp(true) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return float(getattr(stats, name)(true, predicted).statistic)

    return score


def _smape(true: np.ndarray, predicted: np.ndarray) -> float:
    """Percent, 0 to 200; 0 where both are 0, as Kaggle defines it."""
    sizes = np.abs(true) + np.abs(predicted)
    return float(200.0 * np.mean(np.abs(true - predicted) / np.where(sizes > 0, sizes, 1.0)))


def _kappa(weights: str | None) -> Callable[..., float]:
    def score(true: Labels, said: Labels, labels: Labels) -> float:
        """Weights are by the distance of labels in their order; 0 where all are one."""
        from sklearn import metrics

        if len({*true, *said}) == 1:
            return 0.0
        return float(metrics.cohen_kappa_score(true, said, labels=ordered({*labels, *said}), weights=weights))

    return score


def _f1(true: Labels, said: Labels, labels: Labels) -> float:
    """Of the positive label where there are two, else weighted."""
    from sklearn import metrics

    binary = len(labels) == 2 and {*said} <= {*labels}
    how = {"average": "binary", "pos_label": labels[-1]} if binary else {"average": "weighted"}
    return float(metrics.f1_score(true, said, zero_division=0.0, **how))


def _f1_of_sets(true: Labels, said: Labels, labels: Labels) -> float:
    """Several labels a row, separated by spaces; mean over rows. No row-by-label table: predictions name any labels."""
    sets = [[set(row.split()) for row in rows] for rows in (true, said)]
    return float(np.mean([2 * len(a & b) / max(1, len(a) + len(b)) for a, b in zip(*sets, strict=True)]))


def _precision_at_3(true: Labels, said: Labels, labels: Labels) -> float:
    """Up to three labels a row, separated by spaces, the likeliest first: 1, 1/2 or 1/3 for where the true one is."""
    ranks = [row.split()[:3] for row in said]
    return float(
        np.mean([1.0 / (row.index(one) + 1) if one in row else 0.0 for one, row in zip(true, ranks, strict=True)])
    )


def _jaccard(true: Labels, said: Labels, labels: Labels) -> float:
    """Of the sets of words, lower case; mean over rows."""
    words = [[set(row.lower().split()) for row in rows] for rows in (true, said)]
    return float(np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(*words, strict=True)]))


def most_frequent(labels: Labels, count: int = 1) -> str:
    return " ".join(label for label, _ in Counter(sorted(labels)).most_common(count))


def ordered(labels: set[str]) -> list[str]:
    """By value where all are numbers, else by text: of two, the last is the positive one (1, True, yes)."""
    try:
        return sorted(labels, key=float)
    except ValueError:
        return sorted(labels, key=lambda label: (label.casefold(), label))


def _mean_log(train: np.ndarray) -> float:
    return float(np.expm1(np.log1p(np.clip(train, 0, None)).mean()))


def _error(words: str, score: Callable[..., float], constant: Callable[..., object]) -> Metric:
    return Metric("regression", words, score, less_is_better=True, constant=constant)


def _agreement(
    words: str, score: Callable[..., float], constant: Callable[..., object] | None = most_frequent, texts: bool = False
) -> Metric:
    return Metric("classification", words, score, constant=constant, texts=texts)


_ROOT = r"root[- ]mean[- ]squared?[- ]"
METRICS = {
    "auc": Metric("classification", r"area under the (?:roc|receiver)|\bauc\b|\broc\b", _auc, shares=True, floor=0.5),
    "gini": Metric("classification", r"\bgini\b", lambda is_1, shares: 2 * _auc(is_1, shares) - 1, shares=True),
    "log_loss": Metric(
        "classification",
        r"log[- ]?loss|logarithmic loss|cross[- ]entropy",
        _log_loss,
        less_is_better=True,
        shares=True,
        constant=lambda indicators_RK: indicators_RK.mean(axis=0),
    ),
    "qwk": _agreement(r"quadratic(?:ally)?[- ]weighted (?:cohen'?s )?kappa|\bqwk\b", _kappa("quadratic"), None),
    "kappa": _agreement(r"kappa", _kappa(None), None),
    "f1_macro": _agreement(
        r"macro[- ](?:averaged )?f1|f1[- ]?(?:score )?\(?macro",
        _sklearn("f1_score", average="macro", zero_division=0.0),
    ),
    "f1_micro": _agreement(
        r"micro[- ](?:averaged )?f1|f1[- ]?(?:score )?\(?micro",
        _sklearn("f1_score", average="micro", zero_division=0.0),
    ),
    "f1_samples": _agreement(
        r"samples?[- ](?:averaged )?f1|f1[- ]?(?:score )?\(?samples|mean f1", _f1_of_sets, texts=True
    ),
    "f1": _agreement(r"\bf1\b|\bf-?1[- ]score", _f1),
    "map@3": _agreement(
        r"\bm(?:ap|pa) ?@ ?3|mean average precision ?@ ?3",
        _precision_at_3,
        lambda known: most_frequent(known, 3),
        texts=True,
    ),
    "jaccard": _agreement(r"jaccard", _jaccard, texts=True),
    "accuracy": _agreement(r"accuracy", _sklearn("accuracy_score")),
    "rmsle": _error(rf"\brmsle\b|{_ROOT}log", _sklearn("root_mean_squared_log_error"), _mean_log),
    "mcrmse": _error(rf"\bmcrmse\b|column-?wise {_ROOT}err", _sklearn("root_mean_squared_error"), np.mean),
    "rmse": _error(rf"\brmse\b|{_ROOT}err", _sklearn("root_mean_squared_error"), np.mean),
    "medae": _error(r"\bmedae\b|median absolute error", _sklearn("median_absolute_error"), np.median),
    "smape": _error(r"\bsmape\b|symmetric mean absolute percent", _smape, np.median),
    "mape": _error(r"\bmape\b|mean absolute percent\w* error", _sklearn("mean_absolute_percentage_error"), np.median),
    "mae": _error(r"\bmae\b|mean absolute error", _sklearn("mean_absolute_error"), np.median),
    "r2": Metric(
        "regression",
        r"\br\^?2\b|\br²|r[- ]squared|coefficient of determination",
        _sklearn("r2_score"),
        constant=np.mean,
    ),
    "pearson": Metric("regression", r"pearson", _correlation("pearsonr")),
    "spearman": Metric("regression", r"spearman", _correlation("spearmanr")),
}
"""By name. Of two that a text names at the same place, the first is meant."""
DEFAULT = {"classification": "accuracy", "regression": "rmse"}
_SAID = re.compile(
    r"(?P<submissions>(?:submissions?|predictions?|competition)\s+(?:is|are|will\s+be)\s+)?(?:evaluated|scored|judged|measured)"
    r"\s+(?:based\s+)?(?:on|upon|using|by|with|via|according\s+to)\s+|metric\s+(?:for|in|of)\s+this\s+\w+\s+is\s+|score\s+is\s+",
    re.IGNORECASE,
)
_WINDOW = 200


def asked_metric(text: str, kind: str) -> str:
    """The metric that a task's text says its submissions are scored by; the kind's default where it names none.

    Raises:
        TaskError: it says so, but not by a metric of this module.
    """
    said = list(_SAID.finditer(text))
    for place in said:
        if (found := _first_named(text[place.end() : place.end() + _WINDOW])) is not None:
            return found
    if named := next((place for place in said if place["submissions"]), None):
        name = re.split(r"[.,;:(\n]", re.sub(r"^(?:the|a|an)\s+", "", text[named.end() :], flags=re.IGNORECASE))[0]
        raise unknown(name.strip()[:60])
    return _first_named(text) or DEFAULT[kind]


def unknown(name: str) -> TaskError:
    return TaskError(f"the metric '{name}' is not known; available (as metadata.metric): {', '.join(METRICS)}")


def _first_named(text: str) -> str | None:
    places = {name: match.start() for name, metric in METRICS.items() if (match := re.search(metric.words, text, re.I))}
    return min(places, key=places.__getitem__, default=None)
