"""Shared by all tests: a miniature quickstart configuration, and hand-made actions."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mappa.config import compose
from mappa.types import Action, Sample, StopReason

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Torch's models here are so small that a second thread only waits; also for the processes that tests start."""
IN_PROCESSES = ("tests/test_distributed.py", "tests/test_resume.py")
"""Tests that run in forks of a server which imports everything once."""
REPO = Path(__file__).resolve().parent.parent


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two for a plain run, however many cores: half of its time is waiting, and a test may take gigabytes.

    None for chosen tests, which start sooner without, nor with slow ones or the vllm engine, which take the machine.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return 2 if whole and "not slow" in config.option.markexpr else 0


def pytest_collection_finish(session: pytest.Session) -> None:
    """That server imports while earlier tests run; among two workers, when it is first needed."""
    alone = not hasattr(session.config, "workerinput")
    if alone and any(item.nodeid.startswith(IN_PROCESSES) for item in session.items):
        importlib.import_module("tests.runs")
        forkserver.ensure_running()


def compose_config(overrides: list[str], folder: Path) -> DictConfig:
    """The composed configuration with its run folder set, as `mappa.train` gets it from Hydra."""
    cfg = compose([*overrides, f"paths.run={folder}", f"paths.outputs={folder}"])
    OmegaConf.set_struct(cfg, False)
    return cfg


def write_hydra_folder(cfg: DictConfig, folder: Path) -> None:
    """What Hydra leaves in the run folder of the quickstart, so that it can be resumed and evaluated."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    chosen = {"hydra": {"runtime": {"choices": {"model": "tiny", "team": "mathchat"}}}}
    OmegaConf.save(chosen, folder / ".hydra" / "hydra.yaml")


@pytest.fixture
def mini(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose the quickstart at its smallest, with more overrides."""

    def make(*overrides: str, folder: Path | None = None) -> DictConfig:
        return compose_config(["+experiment=quickstart", "+debug=fast", *overrides], folder or tmp_path / "run")

    return make


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run, of seconds, whose agents have moved away from the base; for reading only."""
    from mappa.train import train

    folder = tmp_path_factory.mktemp("short") / "run"
    words = ["+experiment=quickstart", "+debug=fast", "module.learning_rate=0.01", "seed=1"]
    cfg = compose_config(words, folder)
    write_hydra_folder(cfg, folder)
    train(cfg)
    return folder


def make_action(
    agent: str = "solver",
    completion: int = 3,
    prompt: int = 2,
    turn: int = 0,
    stop: StopReason = StopReason.STOP,
    name: str = "e/0",
    **more: object,
) -> Action:
    settings = {
        "id": name,
        "agent": agent,
        "role": "",
        "turn": turn,
        "messages": (),
        "prompt_ids": tuple(range(3, 3 + prompt)),
        "completion_ids": tuple(range(10, 10 + completion)),
        "logprobs": tuple(-0.5 for _ in range(completion)),
        "stop_reason": stop,
        "text": "",
        "version": 0,
    }
    return Action(**(settings | more))


def make_sample(reward: float | None, task: str = "t", kind: str = "k", **action: object) -> Sample:
    return Sample(make_action(**action), task, kind, reward)
