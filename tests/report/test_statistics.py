"""Accuracies, their intervals and the paired test, by hand-computed numbers."""

from __future__ import annotations

import pytest

from mappa.report.statistics import interval, majority, paired, pass_at_k


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


def test_the_paired_test_finds_nothing_in_nothing():
    before = {f"t{i}": float(i % 2) for i in range(40)}
    after = {f"t{i}": float((i // 2) % 2) for i in range(40)}
    result = paired(before, after)
    assert result["mean"] == 0.0
    assert result["p"] == 1.0
    with pytest.raises(ValueError, match="2 stand on one side only"):
        paired({"a": 1.0}, {"b": 1.0})
