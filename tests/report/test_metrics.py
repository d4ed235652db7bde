"""Episodes -> numbers."""

from __future__ import annotations

from mappa.report.metrics import measures_by_task, truncation_lines
from mappa.types import Episode, Grade, Task


def test_measures_of_a_task_by_problem_and_by_kind():
    def episode(task: str, kind: str, **measures: float) -> Episode:
        return Episode(task, Task(task, "", kind=kind), 0, (), None, Grade(0.0, "", measures))

    found = measures_by_task(
        [
            episode("a", "regression", success=1.0, rmse=2.0),
            episode("a", "regression", success=0.0),
            episode("b", "classification", success=1.0),
        ]
    )
    assert found == {
        "classification/success": {"b": 1.0},
        "regression/rmse": {"a": 2.0},
        "regression/success": {"a": 0.5},
        "rmse": {"a": 2.0},
        "success": {"a": 0.5, "b": 1.0},
    }


def test_an_agent_that_is_often_cut_off_is_named():
    numbers = {"solver/truncated_fraction": 0.75, "verifier/truncated_fraction": 0.25}
    (line,) = truncation_lines(numbers, ["solver", "verifier", "silent"])
    assert line == "75% of the actions of solver were cut off by max_tokens, and teach nothing; raise it"
