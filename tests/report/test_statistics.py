"""Accuracies, their intervals and the paired test: by hand-computed numbers, by enumeration and by simulation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from mappa.report.statistics import interval, majority, majority_of_subsets, paired, pass_at_k

SHARES = (0.05, 0.07, 0.1, 0.15, 0.3, 0.5, 0.7, 0.9, 0.95)
NOMINAL = 0.92
"""A 95% interval of 8 to 200 problems is to hold the truth this often at least."""


@pytest.mark.parametrize(
    ("correct", "tried", "k", "expected"),
    [(1, 4, 1, 0.25), (1, 4, 2, 0.5), (2, 4, 2, 5 / 6), (0, 4, 4, 0.0), (3, 4, 2, 1)],
)
def test_pass_at_k(correct, tried, k, expected):
    assert pass_at_k(correct, tried, k) == pytest.approx(expected)


def test_majority_without_votes_and_with_ties():
    assert majority([None, None], [1.0, 1.0]) == 0.0
    assert majority(["a", "b", "b"], [1.0, 0.0, 0.0]) == 0.0
    assert majority(["a", "b"], [1.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("votes", "k"), [("aabbc-", 3), ("abcd", 2), ("aaabb--", 4), ("aab", 3), ("---", 2), ("aabbccd", 5)]
)
def test_the_majority_over_all_subsets_is_that_of_all_orders(votes: str, k: int):
    scores = [float("abcd-".index(vote)) / 4 for vote in votes]
    said = [None if vote == "-" else vote for vote in votes]
    orders = permutations(range(len(votes)), k)
    each = [majority([said[i] for i in order], [scores[i] for i in order]) for order in orders]
    assert majority_of_subsets(said, scores, k) == pytest.approx(np.mean(each))


def test_the_majority_over_subsets_of_many_attempts_takes_no_time():
    assert (
        0.0 < majority_of_subsets([str(i % 20) for i in range(64)], [float(i % 20 == 0) for i in range(64)], 16) < 0.2
    )


@pytest.mark.parametrize("n", [8, 30, 200])
def test_intervals_of_outcomes_cover_the_truth(n: int):
    """Exactly, over all numbers of successes. Bootstrap percentiles: 0.78 at n = 30 and .95; Wilson: 0.90 at 8, .07."""
    ends = [interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
    for share in SHARES:
        hits = [end["low"] <= share <= end["high"] for end in ends]
        assert stats.binom.pmf(range(n + 1), n, share)[hits].sum() >= NOMINAL
    assert ends[n]["low"] < 1.0 == ends[n]["high"], "all right is not certain"
    assert all(end["low"] <= end["mean"] <= end["high"] for end in ends)
    exact = stats.binomtest(3, n).proportion_ci(0.95, "exact")
    assert (ends[3]["low"], ends[3]["high"]) == pytest.approx((exact.low, exact.high))


MANY = pytest.param(200, marks=pytest.mark.slow)


@pytest.mark.parametrize("n", [8, 30, MANY])
@pytest.mark.parametrize(
    "alike", [0.05, 2.0, 1e6], ids=["always or never solved", "hard and easy problems", "problems alike"]
)
def test_intervals_of_several_attempts_cover_the_truth(n: int, alike: float):
    rng, k, runs = np.random.default_rng(0), 4, 400
    for share in SHARES:
        rates = rng.beta(share * alike, (1 - share) * alike, (runs, n))
        found = [interval(row, k) for row in rng.binomial(k, rates) / k]
        assert np.mean([end["low"] <= share <= end["high"] for end in found]) >= NOMINAL


def test_attempts_narrow_an_interval_as_far_as_they_are_independent():
    width = lambda found: found["high"] - found["low"]  # noqa: E731
    once = width(interval([1.0, 0.0] * 50))
    alike = width(interval([0.5] * 100, trials=4))
    apart = width(interval([1.0, 0.0] * 50, trials=4))
    assert alike < 0.6 * once
    assert apart > 0.9 * once


def test_problems_of_one_cluster_are_one_observation():
    """100 splits of 4 tables, each table always right or always wrong: as if there were 4 problems."""
    values, clusters = [1.0] * 75 + [0.0] * 25, [str(index // 25) for index in range(100)]
    as_four = interval([1.0, 1.0, 1.0, 0.0])
    found = interval(values, clusters=clusters)
    assert found["n"] == 100
    assert (found["low"], found["high"]) == pytest.approx((as_four["low"], as_four["high"]))
    assert found["low"] < interval(values)["low"] - 0.3

    tasks = [f"t{index}" for index in range(100)]
    before, after = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 1.0)
    assert paired(before, after)["p"] < 0.001
    result = paired(before, after, dict(zip(tasks, clusters, strict=True)))
    assert result["p"] == result["p_smallest"] == 0.125


def test_scores_end_where_scores_do():
    """Two tables, one nearly solved: Student's interval of two observations is wider than there are scores."""
    values, clusters = [0.95, 0.9, 0.4, 0.3], ["a", "a", "b", "b"]
    free, found = interval(values, clusters=clusters), interval(values, clusters=clusters, within=(0.0, 1.0))
    assert free["low"] < 0
    assert free["high"] > 1
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_tokens_by_students_interval():
    values = [10.0, 12.0, 14.0]
    expected = stats.t.interval(0.95, 2, 12.0, 2.0 / np.sqrt(3))
    assert (interval(values)["low"], interval(values)["high"]) == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 8, 14])
def test_few_problems_are_flipped_in_all_ways(n: int):
    rng = np.random.default_rng(n)
    differences = rng.integers(-2, 4, n) / 4
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=n)]
    share = np.mean([total >= abs(differences.sum()) - 1e-9 for total in sums])
    result = paired({str(i): 0.0 for i in range(n)}, {str(i): float(d) for i, d in enumerate(differences)})
    assert result["p"] == share
    assert result["p_smallest"] == 2.0 ** (1 - n)


def test_the_paired_test_sees_what_two_overlapping_intervals_hide():
    """80 problems, 40 always right; 10 of the others mended, none broken: the intervals overlap, yet p = 2 / 2^10."""
    before = {f"t{i}": float(i < 40) for i in range(80)}
    after = {f"t{i}": float(i < 50) for i in range(80)}
    assert interval(list(before.values()))["high"] > interval(list(after.values()))["low"]
    result = paired(before, after)
    assert result["mean"] == pytest.approx(0.125)
    assert result["n"] == 80
    assert 0.05 < result["low"] < 0.125 < result["high"] < 0.21
    assert result["p"] == pytest.approx(2 / 2**10, abs=0.0015)
    assert result["p_smallest"] == pytest.approx(1 / 10_001)


@pytest.mark.parametrize("n", [30, MANY])
def test_the_interval_of_a_difference_covers_the_truth(n: int):
    rng, runs = np.random.default_rng(1), 300
    for mended, broken in ((0.05, 0.0), (0.1, 0.1), (0.3, 0.05)):
        hits = 0
        for draws in rng.random((runs, n)):
            change = np.where(draws < mended, 1, np.where(draws < mended + broken, -1, 0))
            before = {str(i): float(c < 0) for i, c in enumerate(change)}
            found = paired(before, {str(i): before[str(i)] + c for i, c in enumerate(change)})
            hits += found["low"] <= mended - broken <= found["high"]
        assert hits / runs >= NOMINAL


def test_the_paired_test_finds_nothing_in_nothing():
    before = {f"t{i}": float(i % 2) for i in range(40)}
    after = {f"t{i}": float((i // 2) % 2) for i in range(40)}
    result = paired(before, after)
    assert result["mean"] == 0.0
    assert result["p"] == 1.0
    assert paired(before, before)["low"] < 0.0 < paired(before, before)["high"], "no change seen is not none"
    with pytest.raises(ValueError, match="2 stand on one side only"):
        paired({"a": 1.0}, {"b": 1.0})
