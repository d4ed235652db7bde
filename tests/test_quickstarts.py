"""The CPU experiments, whole, as a user runs them: the team learns, by the task's own measures on held-out problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run, summary


@pytest.mark.slow
def test_the_data_science_team_learns(tmp_path: Path):
    """Numbers to expect: README, "The data-science team"."""
    assert run(["+experiment=quickstart_dsbench"], tmp_path) == 0
    last = summary(tmp_path)["validation"][-1]
    for measure in ("success", "fair_accuracy", "fair_f1"):
        assert last["gains"][measure]["low"] > 0.0, last["gains"]
    assert last["gains"]["fair_rmse_pct"]["high"] < 0.0, last["gains"]
