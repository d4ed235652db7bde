"""Shared by all tests: a miniature quickstart configuration, and hand-made actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mappa.config import compose
from mappa.types import Action, Sample, StopReason

REPO = Path(__file__).resolve().parent.parent


def compose_config(overrides: list[str], folder: Path) -> DictConfig:
    """The composed configuration with its run folder set, as `mappa.train` gets it from Hydra."""
    cfg = compose([*overrides, f"paths.run={folder}", f"paths.outputs={folder}"])
    OmegaConf.set_struct(cfg, False)
    return cfg


def write_hydra_folder(cfg: DictConfig, folder: Path) -> None:
    """What Hydra leaves in a run folder, so that it can be resumed and evaluated."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")


@pytest.fixture
def mini(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose the quickstart at its smallest, with more overrides."""

    def make(*overrides: str, folder: Path | None = None) -> DictConfig:
        return compose_config(["+experiment=quickstart", "+debug=fast", *overrides], folder or tmp_path / "run")

    return make


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
