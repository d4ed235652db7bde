"""The benchmark measures what it says: its numbers exist, agree with each other, and are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mappa.bench.__main__ import bench, read
from mappa.errors import ConfigError


def test_an_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "bench.json"
    found = bench(["update", "tokens=256", "repeats=1", f"to={path}"])
    assert json.loads(path.read_text()) == found
    update = found["update"]
    assert {"1 agents", "8 agents", "8 turns an act", "8 turns, a row each", "context 16", "context 256"} <= set(update)
    assert all(row["needed"] == 256 and row["processor seconds"] > 0 for row in update.values())
    assert update["8 turns an act"]["computed/needed"] == 1.0
    assert update["8 turns, a row each"]["computed/needed"] > 4, "what a turn's row of its own costs"
    assert update["8 turns, a row each"]["TFLOP"] > 3 * update["8 turns an act"]["TFLOP"]
    assert "8 turns, a row each" in capsys.readouterr().out


@pytest.mark.slow
def test_the_engine_an_epoch_and_the_judge(tmp_path: Path):
    found = bench(["engine", "epoch", "judge", "repeats=1", f"to={tmp_path / 'bench.json'}"])
    assert 0 < found["engine"]["8 agents"]["tokens"] <= 48 * 32
    (epoch,) = found["epoch"].values()
    assert epoch["seconds"] >= epoch["generate"] + epoch["update"] + epoch["credit"]
    assert 1.0 <= epoch["computed/needed"] <= 1.1
    assert found["judge"]["a judge of 1 s"]["seconds"] >= 5.0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("updat", r"'updat' is unknown; available: engine, update, epoch, judge, plan, all, shape=,"),
        ("shape=llama", r"shape=llama is unknown; available: tiny, qwen3_0_6b, qwen3_4b"),
        ("tokens=0", r"tokens=0 must be a whole number of at least 1"),
        ("against=verl", r"against=verl is unknown; available: trl"),
    ],
)
def test_what_is_refused(word: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read([word])
