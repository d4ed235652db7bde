"""Episodes -> numbers."""

from __future__ import annotations

import pytest

from mappa.report.metrics import evaluate_episodes, measures_by_task, truncation_lines
from mappa.types import Episode, Grade, Task


def attempts(scores: dict[str, list[float]], answer: str | None, cluster: str = "") -> list[Episode]:
    return [
        Episode(f"{task}{copy}", Task(task, "", cluster=cluster), 0, (), answer, Grade(score))
        for task, row in scores.items()
        for copy, score in enumerate(row)
    ]


def test_without_a_vote_there_is_no_majority():
    scores = {"a": [1.0, 0.0], "b": [1.0, 1.0]}
    assert list(evaluate_episodes(attempts(scores, None), str)) == ["avg@2", "pass@2"]
    assert list(evaluate_episodes(attempts(scores, "x"), lambda answer: None)) == ["avg@2", "pass@2"]
    found = evaluate_episodes(attempts(scores, "x"), str)
    assert {name: value["mean"] for name, value in found.items()} == {"avg@2": 0.75, "pass@2": 1.0, "maj@2": 1.0}
    assert found["avg@2"]["low"] < found["avg@2"]["mean"] < found["avg@2"]["high"]


def test_tasks_of_one_cluster_count_as_one():
    scores = {f"t{index}": [1.0] for index in range(50)}
    alone = evaluate_episodes(attempts(scores, "x"), str)["avg@1"]
    together = evaluate_episodes(attempts(scores, "x", "one table"), str)["avg@1"]
    assert alone["low"] > 0.9
    assert together["low"] == pytest.approx(0.025)


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
