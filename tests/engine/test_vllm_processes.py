"""Guarding and ending the processes of the vllm engine, with stand-ins for vLLM's own."""

from __future__ import annotations

import os
import subprocess

import pytest

from mappa.engine import vllm_processes as processes


def test_the_guard_kills_when_its_parent_is_gone() -> None:
    """The parent's end closes the guard's input; here it is closed by hand."""
    with subprocess.Popen(["sleep", "60"]) as core, processes.guard([core.pid]) as guard:
        assert core.poll() is None
        guard.stdin.close()
        assert core.wait(timeout=10) == -9


def test_processes_that_do_not_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.2)
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo started; wait"], stdout=subprocess.PIPE) as core:
        core.stdout.readline()
        family = processes.family([core])
        assert len(family) == 2
        processes.end(family)
        assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_the_environment_is_lent_and_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    before = dict(os.environ)
    with processes.environment(on_cpu=True):
        assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert os.environ["TORCH_COMPILE_DISABLE"] == "1"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("users", "vllms"),
    [
        ("expandable_segments:True", None),
        ("max_split_size_mb:64,expandable_segments:True", "max_split_size_mb:64"),
        ("max_split_size_mb:64", "max_split_size_mb:64"),
    ],
)
@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_expandable_segments_are_the_trainers_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, users: str, vllms: str | None
) -> None:
    """vLLM refuses to sleep with them."""
    monkeypatch.setenv(name, users)
    before = dict(os.environ)
    with processes.environment(on_cpu=False):
        assert os.environ.get(name) == vllms
    assert dict(os.environ) == before


@pytest.mark.parametrize(("visible", "seen"), [(None, "1"), ("4,7", "7")])
def test_with_several_ranks_an_engine_sees_its_own_gpu_and_no_launcher(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = dict(os.environ)
    with processes.environment(on_cpu=False, gpu=1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
        assert not {"WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    assert dict(os.environ) == before
