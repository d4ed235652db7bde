"""A whole run with a real OpenAI-compatible server as the judge: vLLM on the CPU, serving the tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mappa.config import ASSETS
from mappa.train import train

CONTEXT = 16384
"""Tokens. The tiny tokenizer knows digits and a few words, so a judge's prompt is almost a token a character."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(ASSETS / "tiny")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(CONTEXT), "--hf-overrides", json.dumps({"max_position_embeddings": CONTEXT})]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def wait_until_healthy(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (.ci/install-vllm VENV)")
def test_noise_is_no_verdict_and_the_run_finishes_and_says_so(url, mini, tmp_path, caplog):
    cfg = mini(
        "judge=vllm",
        f"judge.base_url={url}",
        "judge.model=tiny",
        "judge.request.structured=false",  # a grammar would make a score of noise
        "judge.request.logprobs=false",
        "judge.request.max_tokens=24",
        "callbacks.judge.max_unjudged=1.0",
        "callbacks.validation.limit=4",
    )
    folder = train(cfg)
    summary = json.loads((folder / "summary.json").read_text())
    actions, judge = summary["actions"], summary["judge"]
    assert actions["total"] > 0
    assert (actions["judged"], actions["trained"]) == (0, 0)
    assert judge["failed"] == actions["total"]
    with sqlite3.connect(cfg.judge.ledger) as ledger:
        scored, raw = ledger.execute("select count(score), count(nullif(raw, '')) from calls").fetchone()
    assert scored == 0
    assert raw > 0, "the server's replies are on disk"
    assert judge["tokens_out"] > 0
    assert "100% of this epoch's actions are unjudged" in caplog.text
