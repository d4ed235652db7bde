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
