"""Intervals, tests and estimators over problems. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean of one value per problem, with its 95% bootstrap interval."""
    low, high = bootstrap_interval(values)
    return {"mean": statistics.fmean(values), "low": low, "high": high, "n": len(values)}


def bootstrap_interval(values: Sequence[float], seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of `values`, one value per problem."""
    import numpy as np

    rng = np.random.default_rng(seed)
    data = np.asarray(values, dtype=float)
    means = np.concatenate(
        [data[rng.integers(0, len(data), (1000, len(data)))].mean(axis=1) for _ in range(draws // 1000)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired(before: Mapping[str, float], after: Mapping[str, float], draws: int = 10_000) -> dict[str, float]:
    """Test of `after` against `before` on the same problems.

    Returns:
        mean difference with its 95% bootstrap interval over problems (`low`, `high`), `n` problems, and `p`, two-sided,
        of the sign-flip permutation test: how often chance alone gives a difference as large.

    Raises:
        ValueError: not the same problems.
    """
    import numpy as np

    if before.keys() != after.keys():
        raise ValueError(f"not the same problems: {len(before.keys() ^ after.keys())} stand on one side only")
    differences = np.array([after[task] - before[task] for task in sorted(before)])
    rng = np.random.default_rng(0)
    flipped = np.concatenate(
        [(rng.choice((-1.0, 1.0), (1000, len(differences))) * differences).mean(axis=1) for _ in range(draws // 1000)]
    )
    as_large = int((np.abs(flipped) >= abs(differences.mean()) - 1e-12).sum())
    return interval(differences.tolist()) | {"p": (as_large + 1) / (len(flipped) + 1)}


def pass_at_k(correct: int, tried: int, k: int) -> float:
    """Unbiased probability that one of `k` draws without replacement from `tried` is correct (arXiv 2107.03374)."""
    return 1.0 - math.comb(tried - correct, k) / math.comb(tried, k)


def majority(votes: Sequence[str | None], scores: Sequence[float]) -> float:
    """Score of the most frequent answer; no answer is no vote; ties go to the answer that came first."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    return scores[votes.index(counts.most_common(1)[0][0])]
