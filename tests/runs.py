"""Runs in processes of their own that are cheap to start: forked from a server that has imported everything once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from lightning import Callback
from omegaconf import OmegaConf

from mappa.rollout import Listener
from tests.conftest import compose_config, write_hydra_folder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.runs", "mappa.train", "mappa.module", "mappa.data", "callbacks.summary"])


class Kill(Callback, Listener):
    """SIGKILL this very process at a chosen moment of the second epoch."""

    def __init__(self, moment: str) -> None:
        self._moment = moment
        self._epoch = 0
        self._count = 0

    def _die(self, moment: str, when: bool = True) -> None:
        if moment == self._moment and when and self._epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    async def on_action(self, purpose, task, actions) -> None:
        self._count += purpose == "train"
        self._die("rollout", self._count == 3)

    def on_train_epoch_start(self, trainer, module) -> None:
        self._die("judging")

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self._die("update", optimizer is module.optimizers()[1].optimizer)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._count = 0
        if self._moment == "checkpoint" and self._epoch == 1:
            save = trainer.save_checkpoint

            def torn(path, *args, **kwargs):
                save(path, *args, **kwargs)
                with open(path, "r+b") as file:
                    file.truncate(100)
                os.kill(os.getpid(), signal.SIGKILL)

            trainer.save_checkpoint = torn
        self._epoch += 1


def _train(overrides: list[str], folder: Path, kill: str | None) -> None:
    from mappa.train import train

    cfg = compose_config(overrides, folder)
    if cfg.resume is None:
        write_hydra_folder(cfg, folder)
    if kill is not None:
        OmegaConf.update(
            cfg, "callbacks", {"kill": {"_target_": "tests.runs.Kill", "moment": kill}} | dict(cfg.callbacks)
        )
    train(cfg)


def run(overrides: list[str], folder: Path, kill: str | None = None) -> int:
    """Train in a process of its own; returns its exit code (-9 when it was killed)."""
    process = CONTEXT.Process(target=_train, args=(overrides, folder, kill))
    process.start()
    process.join()
    return process.exitcode


def adapters(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint's adapter files, byte for byte."""
    newest = max((folder / "checkpoints").glob("epoch=*"), key=lambda p: int(p.name.partition("=")[2]))
    return {p.parent.name: p.read_bytes() for p in sorted(newest.rglob("adapter_model.safetensors"))}


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())
