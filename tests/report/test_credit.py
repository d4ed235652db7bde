import numpy as np
import pytest

from mappa.report.credit import break_even, rho2, rho2_outcome
from mappa.report.lab import area, crossed, episodes_to, partings


@pytest.mark.parametrize(("agents", "p", "factor"), [(3, 0.8, 3.8), (4, 0.8, 5.8), (8, 0.8, 19.8)])
def test_episodes_that_the_shared_outcome_takes(agents, p, factor):
    """The issue's own numbers, 1 / rho2."""
    assert 1 / rho2_outcome(p, agents) == pytest.approx(factor, abs=0.06)


@pytest.mark.parametrize(("agents", "flips"), [(3, 0.20), (4, 0.25), (8, 0.36), (16, 0.45)])
def test_how_often_a_judge_may_err(agents, flips):
    assert break_even(0.8, agents) == pytest.approx(flips, abs=0.02)


def test_the_outcome_of_simulated_chains_is_as_blunt_as_the_formula_says():
    right = np.random.default_rng(0).random((20_000, 4)) < 0.8
    grade = right.all(axis=1)
    measured = rho2(grade.astype(float).tolist(), right[:, 0].astype(float).tolist())
    assert measured == pytest.approx(rho2_outcome(0.8, 4), abs=0.02)


def test_nothing_varies_nothing_is_known():
    assert rho2([1.0, 1.0], [0.0, 1.0]) is None


def test_a_crossed_interval_is_wider_than_one_over_problems_alone():
    rng = np.random.default_rng(0)
    of_seeds = np.array([0.2, 0.5, 0.8])[:, None] + 0.01 * rng.standard_normal((3, 200))
    found = crossed(of_seeds)
    assert found["mean"] == pytest.approx(0.5, abs=0.01)
    assert found["high"] - found["low"] > 0.4
    same = crossed(np.tile(rng.random(200), (3, 1)))
    assert 0.06 < same["high"] - same["low"] < 0.1, "2 * 1.96 * sqrt(1/12/200) = 0.08"


def test_a_run_in_which_score_and_grade_part_is_told():
    same = [(5.0 + n / 10, 0.5 + n / 100) for n in range(16)]
    parted = [(5.0 + n / 2, 0.8 - n / 20) for n in range(8)]
    found = {
        "4-one": {"training": [same, same]},
        "4-two": {"training": [same[:8], parted]},
        "4-short": {"training": [[]]},
    }
    assert partings(found).splitlines() == [
        "4-one: score 5.15 to 6.35, grade 0.515 to 0.635; the warning that they part came in 0 of 2 runs",
        "4-two: score 5.15 to 6.95, grade 0.640 to 0.520; the warning that they part came in 1 of 2 runs",
    ]


def test_area_and_episodes_to_a_level():
    scores = np.array([0.0, 0.5, 1.0])[:, None, None] * np.ones((3, 2, 4))
    assert area((0, 10, 20), scores) == pytest.approx(np.full((2, 4), 0.5))
    assert episodes_to(0.75, (0, 160, 320), (0.0, 0.5, 1.0)) == 240.0
    assert episodes_to(0.0, (0, 160), (0.2, 0.5)) == 0.0
    assert episodes_to(0.9, (0, 160), (0.2, 0.5)) is None
