"""Intervals, tests and estimators over problems. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


EXACT = 14
"""Most problems (or clusters) of which all sign flips are tried, 2^14; of more, a sample is."""


def interval(
    values: Sequence[float],
    trials: int | None = None,
    clusters: Sequence[str] | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, float]:
    """Mean of one value per problem, with its 95% interval over problems.

    Shares of successes: Clopper and Pearson's exact interval with an effective number of problems (Korn and Graubard
    1998), which is n where each was tried once. It lies between n, as if the attempts at a problem were one, and n
    times `trials`, as if they were independent; between them the variance over problems decides, to which one problem
    that is always solved and one that never is are added. Anything else (tokens, errors): Student's.

    Args:
        values: one per problem.
        trials: independent attempts behind each value, which is a share of them; None = not such a share, unless all
            values are 0 or 1.
        clusters: what each problem shares with others, e.g. its table; those of one cluster count as one observation.
        within: least and largest value that there can be; the interval ends there.
    """
    import numpy as np
    from scipy import stats

    data = np.asarray(values, dtype=float)
    mean, n = float(data.mean()), len(data)
    if trials is None and np.isin(data, (0.0, 1.0)).all():
        trials = 1
    totals = _cluster_totals(data - mean, clusters)
    independent = len(totals)
    if trials is not None:
        low, high = _share_interval(mean, totals * independent / n, trials, plain=trials == 1 and independent == n)
    elif independent == 1:
        low = high = mean
    else:
        deviation = np.sqrt((totals**2).sum() * independent / (independent - 1)) / n
        low, high = mean + np.array([-1.0, 1.0]) * stats.t.ppf(0.975, independent - 1) * deviation
    return {"mean": mean, "low": max(float(low), within[0]), "high": min(float(high), within[1]), "n": n}


def _share_interval(mean: float, deviations: np.ndarray, trials: int, plain: bool) -> tuple[float, float]:
    from scipy import stats

    n = float(len(deviations))
    if not plain and n > 1:
        variance = ((deviations**2).sum() + mean**2 + (1 - mean) ** 2) / (n + 1)
        stretch = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, n - 1)) ** 2
        n = min(max(n, n * mean * (1 - mean) / variance * stretch), n * trials)
    successes = mean * n
    low = stats.beta.ppf(0.025, successes, n - successes + 1) if mean > 0 else 0.0
    high = stats.beta.ppf(0.975, successes + 1, n - successes) if mean < 1 else 1.0
    return low, high


def _cluster_totals(values: np.ndarray, clusters: Sequence[str] | None) -> np.ndarray:
    """Sum of the values of each cluster; without clusters the values."""
    import numpy as np

    if clusters is None:
        return values
    return np.bincount(np.unique(list(clusters), return_inverse=True)[1], values)


def paired(
    before: Mapping[str, float], after: Mapping[str, float], clusters: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Test of `after` against `before` on the same problems.

    Args:
        clusters: problem -> what it shares with others; the signs of a cluster's differences are flipped together.

    Returns:
        mean difference with its 95% interval over problems (Student's; of outcomes that are 0 or 1 as if one problem at
        least had changed), `n` problems, and `p`, two-sided, of the sign-flip permutation test: how often chance alone
        gives a difference as large. All flips are tried up to `EXACT` problems, beyond them 10,000; `p_smallest` is the
        least that p could have been.

    Raises:
        ValueError: not the same problems.
    """
    import numpy as np
    from scipy import stats

    if before.keys() != after.keys():
        raise ValueError(f"not the same problems: {len(before.keys() ^ after.keys())} stand on one side only")
    tasks = sorted(before)
    differences = np.array([after[task] - before[task] for task in tasks])
    labels = None if clusters is None else [clusters[task] for task in tasks]
    mean, n = float(differences.mean()), len(tasks)
    totals = _cluster_totals(differences, labels)
    independent = len(totals)
    low = high = mean
    if independent > 1:
        squares = (_cluster_totals(differences - mean, labels) ** 2).sum() * independent / (independent - 1)
        if {*before.values(), *after.values()} <= {0.0, 1.0}:
            squares = max(squares, 1.0)
        low, high = mean + np.array([-1.0, 1.0]) * stats.t.ppf(0.975, independent - 1) * np.sqrt(squares) / n
    return {"mean": mean, "low": float(low), "high": float(high), "n": n} | _sign_flips(totals)


def _sign_flips(totals: np.ndarray, draws: int = 10_000) -> dict[str, float]:
    import numpy as np

    n, exact = len(totals), len(totals) <= EXACT
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        flipped = signs @ totals
    else:
        rng = np.random.default_rng(0)
        flipped = np.concatenate([rng.choice((-1.0, 1.0), (1000, n)) @ totals for _ in range(draws // 1000)])
    as_large = int((np.abs(flipped) >= abs(totals.sum()) - 1e-9).sum())
    if exact:
        return {"p": as_large / 2**n, "p_smallest": 2.0 / 2**n}
    return {"p": (as_large + 1) / (draws + 1), "p_smallest": max(1 / (draws + 1), 2.0 / 2**n)}


def pass_at_k(correct: int, tried: int, k: int) -> float:
    """Unbiased probability that one of `k` draws without replacement from `tried` is correct (arXiv 2107.03374)."""
    return 1.0 - math.comb(tried - correct, k) / math.comb(tried, k)


def majority_of_subsets(votes: Sequence[str | None], scores: Sequence[float], k: int) -> float:
    """Mean of `majority` over all subsets of k attempts, ties shared equally (as over all orders of the attempts).

    Exact, by counting: an answer that n_j attempts gave wins with m votes where no other answer has more.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    silent = len(votes) - counts.total()
    result = 0.0
    for answer, given in counts.items():
        score = sum(s for v, s in zip(votes, scores, strict=True) if v == answer) / given
        rivals = [n for other, n in counts.items() if other != answer]
        for m in range(1, min(given, k) + 1):
            wins = sum(
                ways * math.comb(silent, k - m - taken) / (1 + ties)
                for (taken, ties), ways in _rivals_taken(rivals, m, k - m).items()
            )
            result += score * math.comb(given, m) * wins
    return result / math.comb(len(votes), k)


def _rivals_taken(rivals: Sequence[int], most: int, left: int) -> Counter[tuple[int, int]]:
    """(attempts taken from rivals, rivals that have `most`) -> in how many ways, none having more than `most`."""
    ways = Counter({(0, 0): 1})
    for n in rivals:
        longer: Counter[tuple[int, int]] = Counter()
        for (taken, ties), count in ways.items():
            for more in range(min(n, most, left - taken) + 1):
                longer[taken + more, ties + (more == most)] += count * math.comb(n, more)
        ways = longer
    return ways


def majority(votes: Sequence[str | None], scores: Sequence[float]) -> float:
    """Score of the most frequent answer; no answer is no vote; ties go to the answer that came first."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    return scores[votes.index(counts.most_common(1)[0][0])]
