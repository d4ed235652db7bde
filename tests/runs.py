"""Runs in processes of their own that are cheap to start: forked from a server that has imported everything once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mappa.engine.hf import HFEngine
from mappa.judge.base import BaseJudge, Evidence
from mappa.play.rollout import Listener
from mappa.policy.chat import Chat
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from mappa.ranks import full
from mappa.types import Verdict
from tests.conftest import compose_config, write_hydra_folder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.runs", "mappa.train", "mappa.learn.module", "mappa.learn.data", "callbacks.summary"]
)


class Kill(Callback, Listener):
    """SIGKILL this very process at a chosen moment of the second epoch; `first`: in the first one's rollout."""

    def __init__(self, moment: str) -> None:
        self._moment = moment
        self._epoch = 0
        self._steps = 0
        self._count = 0

    def _die(self, moment: str, when: bool = True) -> None:
        if moment == self._moment and when and self._epoch == (moment != "first"):
            os.kill(os.getpid(), signal.SIGKILL)

    async def on_action(self, purpose, task, actions) -> None:
        self._count += purpose == "train"
        self._die("rollout", self._count == 3)
        self._die("first", self._count == 3)

    def on_train_epoch_start(self, trainer, module) -> None:
        self._die("judging")

    async def on_episode(self, purpose, episode) -> None:
        """The hook below has counted the epochs when a validation is played."""
        if purpose != "train" and self._moment == "validation" and self._epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self._steps += 1
        self._die("update", self._steps == 2)

    def on_train_epoch_end(self, trainer, module) -> None:
        self._count = self._steps = 0
        if self._moment == "checkpoint" and self._epoch == 1:
            save = trainer.save_checkpoint

            def torn(path, *args, **kwargs):
                save(path, *args, **kwargs)
                with open(path, "r+b") as file:
                    file.truncate(100)
                os.kill(os.getpid(), signal.SIGKILL)

            trainer.save_checkpoint = torn
        self._epoch += 1


class Spread(BaseJudge):
    """A different score for every episode, whatever the agents did: every agent has something to learn."""

    id = "spread"

    async def score(self, evidence: Evidence) -> Verdict:
        return Verdict(float(int(evidence.action.id.partition("/")[0][-5:]) % 11), "", self.id)


class Gradients(Callback):
    """Writes each agent's gradient of the first update: `gradients/<agent>.pt`, whole tensors by name."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) / "gradients"

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        index = trainer.optimizers.index(optimizer)
        path = self._folder / f"{module.agents[index]}.pt"
        mine = {id(p) for p in module.adapters.parameters(module.agents[index])}
        found = {n: full(p.grad).clone() for n, p in module.adapters.model.named_parameters() if id(p) in mine}
        if trainer.is_global_zero and not path.exists():
            self._folder.mkdir(exist_ok=True)
            torch.save(found, path)


@dataclass(frozen=True)
class Read(Model):
    """Notes which rank has read the weights for the trainer."""

    noted: str = ""
    """Folder."""

    def load(self, weights: bool = True):
        if weights:
            Path(self.noted).mkdir(exist_ok=True)
            (Path(self.noted) / os.environ.get("LOCAL_RANK", "0")).touch()
        return super().load(weights)


class OwnWeights(HFEngine):
    """An engine with a second copy of base and adapters, as vllm has, but exact and quick to start."""

    shares_weights = False

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._source = adapters
        copy = Adapters(Model(model_path, "float32").load(), adapters.agents, adapters.rank, 2 * adapters.rank)
        super().attach(copy, chat, model_path)

    async def sync(self, version: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._source.save(Path(folder))
            self._adapters.load(Path(folder))
        await super().sync(version)


def _train(overrides: list[str], folder: Path, kill: str | None, parts: Mapping[str, Any], env: dict[str, str]) -> None:
    from mappa.train import train

    os.environ.update(env)
    cfg = compose_config(overrides, folder)
    for where, part in parts.items():
        OmegaConf.update(cfg, where, part, merge=False, force_add=True)
    if cfg.resume is None and env.get("LOCAL_RANK", "0") == "0":
        write_hydra_folder(cfg, folder)
    if kill is not None:
        OmegaConf.update(
            cfg, "callbacks", {"kill": {"_target_": "tests.runs.Kill", "moment": kill}} | dict(cfg.callbacks)
        )
    train(cfg)


def run(overrides: list[str], folder: Path, kill: str | None = None, parts: Mapping[str, Any] | None = None) -> int:
    """Train in a process of its own; returns its exit code (-9 when it was killed).

    Args:
        parts: dotted place in the configuration -> what stands there instead.
    """
    return run_ranks(overrides, folder, 1, {0: kill}, parts, timeout_s=3600.0)[0]


def _free_port() -> int:
    """Below those that the system hands out: until the first rank listens, no other test is given it."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def run_ranks(
    overrides: list[str],
    folder: Path,
    size: int,
    kill: Mapping[int, str | None] | None = None,
    parts: Mapping[str, Any] | None = None,
    timeout_s: float = 300.0,
) -> list[int | None]:
    """Train on `size` ranks, started as a cluster's launcher does; exit codes by rank, None = still running."""
    port, processes = str(_free_port()), []
    for rank in range(size):
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        env |= {"WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        arguments = (overrides, folder, (kill or {}).get(rank), parts or {}, env if size > 1 else {})
        processes.append(CONTEXT.Process(target=_train, args=arguments))
        processes[-1].start()
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def adapters(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The newest checkpoint's tensors by adapter and name."""
    newest = max((folder / "checkpoints").glob("epoch=*"), key=lambda p: int(p.name.partition("=")[2]))
    return {p.parent.name: load_file(p) for p in sorted(newest.rglob("adapter_model.safetensors"))}


def equal(ours: Mapping[str, Mapping[str, torch.Tensor]], theirs: Mapping[str, Mapping[str, torch.Tensor]]) -> bool:
    """Bit for bit."""
    return ours.keys() == theirs.keys() and all(
        ours[agent].keys() == tensors.keys() and all(torch.equal(ours[agent][k], t) for k, t in tensors.items())
        for agent, tensors in theirs.items()
    )


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())
