"""Team against single agent at an equal token budget, from per-problem results on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from mappa.compare import compare, read
from mappa.errors import ConfigError
from mappa.play.episodes import write_lines


def record(folder: Path, attempts: dict[str, list[tuple[str, float]]], tokens: int, epoch: int = 0) -> Path:
    lines = [
        {"task": task, "vote": vote, "score": score, "tokens": tokens}
        for task, votes in attempts.items()
        for vote, score in votes
    ]
    write_lines(folder / f"amc-epoch={epoch:04d}.jsonl", lines)
    return folder


RIGHT, WRONG, OTHER = ("1", 1.0), ("2", 0.0), ("3", 0.0)


def test_the_cheaper_side_gets_more_samples_and_votes(tmp_path: Path):
    team = record(tmp_path / "team", {"a": [RIGHT], "b": [RIGHT], "c": [WRONG]}, tokens=300)
    single = {"a": [WRONG, RIGHT, RIGHT], "b": [WRONG, OTHER, WRONG], "c": [WRONG, WRONG, RIGHT]}
    solo = record(tmp_path / "solo", single, tokens=100)
    result = compare(read(team), read(solo))
    assert (result["one"]["samples"], result["other"]["samples"]) == (1, 3)
    assert (result["one"]["tokens_per_problem"], result["other"]["tokens_per_problem"]) == (300, 300)
    assert result["one"]["mean"] == pytest.approx(2 / 3)
    assert result["other"]["mean"] == pytest.approx(1 / 3)
    assert result["difference"]["mean"] == pytest.approx(1 / 3)


def test_every_recorded_attempt_counts_and_the_budget_is_filled_exactly(tmp_path: Path):
    """1.5 attempts: one in half of the cases, two in the other half."""
    team = record(tmp_path / "team", {"a": [RIGHT, WRONG], "b": [RIGHT, RIGHT]}, tokens=150)
    solo = record(tmp_path / "solo", {"a": [WRONG, RIGHT, RIGHT, RIGHT], "b": [WRONG] * 4}, tokens=100)
    result = compare(read(team), read(solo))
    assert result["one"]["mean"] == 0.75
    assert result["other"]["samples"] == 1.5
    assert result["other"]["recorded"] == 4
    assert result["other"]["tokens_per_problem"] == result["one"]["tokens_per_problem"] == 150
    assert result["other"]["utilisation"] == 1.0
    # of one attempt 3/4; of two: three of six pairs agree on the right answer, three are ties
    assert result["other"]["mean"] == pytest.approx((0.5 * 3 / 4 + 0.5 * (3 + 3 / 2) / 6) / 2)


def test_without_a_vote_the_mean_score_counts(tmp_path: Path):
    team = record(tmp_path / "team", {"a": [(None, 0.9)], "b": [(None, 0.5)]}, tokens=300)
    solo = record(tmp_path / "solo", {"a": [(None, 0.2), (None, 0.4), (None, 0.6)], "b": [(None, 0.5)] * 3}, tokens=100)
    result = compare(read(team), read(solo))
    assert result["one"]["mean"] == pytest.approx(0.7)
    assert result["other"]["mean"] == pytest.approx(0.45)


def test_prompts_cost_where_it_is_said_so(tmp_path: Path):
    for name, prompt in (("a", 100), ("b", 0)):
        line = {"task": "t", "vote": "1", "score": 1.0, "tokens": 100, "prompt_tokens": prompt}
        write_lines(tmp_path / name / "amc-epoch=0000.jsonl", [line] * 2)
    assert compare(read(tmp_path / "a"), read(tmp_path / "b"))["other"]["samples"] == 1
    all_tokens = (read(tmp_path / name, prompts=True) for name in "ab")
    assert compare(*all_tokens)["other"]["samples"] == 2
    old = record(tmp_path / "old", {"t": [RIGHT]}, tokens=10)
    with pytest.raises(ConfigError, match="does not say how long prompts were"):
        read(old, prompts=True)


def test_a_run_folder_and_a_side_that_said_nothing(tmp_path: Path):
    record(tmp_path / "run" / "validation", {"a": [RIGHT]}, tokens=10)
    silent = record(tmp_path / "silent", {"a": [(None, 0.0)]}, tokens=0)
    with pytest.raises(ConfigError, match="silent spent no tokens, so no budget is equal to it; take budget=own"):
        compare(read(tmp_path / "run"), read(silent))
    assert compare(read(tmp_path / "run"), read(silent), equal=False)["difference"]["mean"] == 1.0


def test_each_at_its_own_price(tmp_path: Path):
    short = record(tmp_path / "short", {"a": [RIGHT], "b": [RIGHT], "c": [WRONG]}, tokens=12)
    long = record(tmp_path / "long", {"a": [WRONG], "b": [RIGHT], "c": [WRONG]}, tokens=50)
    result = compare(read(short), read(long), equal=False)
    assert (result["one"]["samples"], result["other"]["samples"]) == (1, 1)
    assert result["difference"]["mean"] == pytest.approx(1 / 3)
    assert (result["tokens_difference"]["mean"], result["tokens_difference"]["high"]) == (-38, -38)


def test_the_newest_results_count(tmp_path: Path):
    record(tmp_path, {"a": [WRONG]}, tokens=10, epoch=0)
    record(tmp_path, {"a": [RIGHT]}, tokens=10, epoch=12)
    assert read(tmp_path, "amc").scores(1) == {"a": 1.0}


def test_what_cannot_be_compared_is_said(tmp_path: Path):
    team = record(tmp_path / "team", {"a": [RIGHT]}, tokens=300)
    solo = record(tmp_path / "solo", {"a": [WRONG]}, tokens=100)
    with pytest.raises(ConfigError, match=r"has 1 attempts a problem, an equal budget takes 3: .* samples=3"):
        compare(read(team), read(solo))
    other = record(tmp_path / "other", {"z": [WRONG]}, tokens=300)
    with pytest.raises(ConfigError, match="2 stand on one side only"):
        compare(read(team), read(other))
    with pytest.raises(ConfigError, match="no per-problem results"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no set 'aime'; available: amc"):
        read(team, "aime")
