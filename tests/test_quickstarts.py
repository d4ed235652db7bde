"""The CPU experiments, whole, as a user runs them: the team learns, by the task's own measures on held-out problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run, summary


@pytest.mark.slow
def test_the_data_science_team_learns(tmp_path: Path):
    """Numbers to expect: README, "The data-science team"."""
    assert run(["+experiment=quickstart_dsbench"], tmp_path) == 0
    gains = summary(tmp_path)["validation"][-1]["gains"]
    for measure, least in {"success": 0.2, "fair_accuracy": 0.15, "fair_f1": 0.3}.items():
        assert gains[measure]["mean"] > least, gains
    assert gains["fair_rmse_pct"]["mean"] < -7.0, gains
    for measure, problems in {"success": 4, "fair_accuracy": 2, "fair_rmse_pct": 2}.items():
        assert gains[measure]["p"] == gains[measure]["p_smallest"] == 2 / 2**problems, "splits of a problem are one"


@pytest.mark.slow
def test_the_debate_teaches_itself_without_a_key(tmp_path: Path):
    """Numbers to expect: README, "Debate without labels"."""
    assert run(["+experiment=quickstart_debate"], tmp_path) == 0
    found = summary(tmp_path)
    assert found["accuracy_after"]["low"] > found["accuracy_before"]["high"], found["gain"]
    assert found["gain"]["low"] > 0.05, found["gain"]
    single, majority, debate = (found["diversity"][-1][key]["mean"] for key in ("single", "majority", "debate"))
    assert single < majority
    assert single < debate


@pytest.mark.slow
def test_dialogues_get_shorter_and_better(tmp_path: Path):
    """Numbers to expect: README, "Shorter and better dialogues"."""
    assert run(["+experiment=quickstart_optima"], tmp_path) == 0
    found = summary(tmp_path)
    assert found["accuracy_after"]["low"] > found["accuracy_before"]["high"] + 0.1, found["gain"]
    assert found["gain"]["low"] > 0.2, found["gain"]
    assert found["tokens_after"]["high"] < found["tokens_before"]["low"] / 2
