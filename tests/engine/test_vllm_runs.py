"""Whole runs on the vllm engine: the quickstart learns, and several ranks have an engine each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.runs import run, run_ranks, summary

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (.ci/install-vllm VENV)"
    ),
]


def test_the_quickstart_learns(tmp_path: Path):
    """All 14 epochs, 100 held-out problems. Measured with 200: 0.485 -> 0.745, p = 0.0001."""
    words = ["+experiment=quickstart", "engine=vllm", "engine.kv_cache_gib=0.5"]
    words += ["callbacks.validation.every_n_epochs=0", "callbacks.validation.limit=100"]
    assert run(words, tmp_path) == 0
    gain = summary(tmp_path)["gain"]
    assert gain["low"] > 0.05, gain
    assert gain["p"] < 0.01, gain


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_ranks_with_an_engine_each(trainer: str, tmp_path: Path):
    words = ["+experiment=quickstart", "+debug=fast", "trainer.max_epochs=2", "engine=vllm", "engine.kv_cache_gib=0.2"]
    words += [f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2"]
    parts = {"judge": {"_target_": "tests.runs.Spread"}}
    assert run_ranks(words, tmp_path, 2, parts=parts, timeout_s=600) == [0, 0]
    found = summary(tmp_path)
    assert found["epochs"] == 2
    assert found["actions"]["trained"] == found["actions"]["judged"] == found["actions"]["total"] > 0
