"""How well a judge is hidden behind generation: the real rollout, callback and HTTP client, and a slow endpoint."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from callbacks.judge import JudgeCallback
from mappa.config import compose, make, register_resolvers
from mappa.judge.base import BaseJudge, Evidence
from mappa.play.agent import Agent, handoff
from mappa.play.loop import EventLoop
from mappa.play.rollout import Job, Rollout
from mappa.play.scene import Scene
from mappa.types import Episode, Grade, Task, Verdict

EPISODES, SEATS = 64, ("solver", "coder", "critic", "verifier")


class Row:
    """Every seat speaks once, after the one before."""

    agents = {name: Agent(name, "speaks", prompt="{{task}}", max_tokens=4) for name in SEATS}  # noqa: RUF012

    async def play(self, scene: Scene) -> str:
        for agent in self.agents.values():
            text = handoff(scene, await agent.act(scene, scene.told()))
        return text


class Words:
    """A chat of no model."""

    eos_id = pad_id = 0
    stop_ids = (0,)

    def render(self, messages: Any) -> tuple[int, ...]:
        return (1, 2, 3)

    def said(self, ids: Any) -> str:
        return "said"

    def clean(self, text: str) -> str:
        return text


class Free(BaseJudge):
    """Costs nothing."""

    id = "free"

    async def score(self, evidence: Evidence) -> Verdict:
        return Verdict(8.0, "", self.id)


@contextmanager
def endpoint(seconds: float) -> Iterator[str]:
    """URL of a chat completions server, in a process of its own, that takes so long for each answer."""
    command = [sys.executable, "-m", "mappa.bench.endpoint", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def judged_rollout(engine: Any, seconds: float) -> dict[str, float]:
    """Seconds, also of the processor, until the last verdict is in; a judge takes `seconds` a call, 0 = no judge."""
    register_resolvers()
    words = ["+experiment=quickstart", "judge=openai", "judge.model=m", "judge.api_key_env=null"]
    with endpoint(seconds) as url, tempfile.TemporaryDirectory() as folder:
        cfg = compose([*words, f"judge.base_url={url}", f"paths.run={folder}", f"paths.outputs={folder}"])
        data = _Data()
        callback = JudgeCallback(make(cfg.judge) if seconds else Free())
        trainer = SimpleNamespace(datamodule=data, max_epochs=1, is_global_zero=True, loggers=[])
        module = SimpleNamespace(log_dict=lambda *_, **__: None)
        callback.setup(trainer, module, "fit")
        tasks = SimpleNamespace(vote=lambda text: text, grade=lambda task, answer, workspace: Grade(1.0))
        rollout = Rollout(data.team, tasks, engine, Words(), None, EPISODES, 64)
        jobs = [[Job(f"e{index:03d}", Task(f"t{index}", f"{index}?"), index)] for index in range(EPISODES)]
        began, busy = time.monotonic(), time.process_time()
        data.episodes = data.loop.run(rollout.collect(jobs, "train", [callback], 1.0, 1.0))
        callback.on_train_epoch_start(trainer, module)
        took = {"seconds": time.monotonic() - began, "processor seconds": time.process_time() - busy}
        callback.teardown(trainer, module, "fit")
        data.loop.run(asyncio.sleep(0))
        data.loop.close()
    assert len(data.verdicts) == EPISODES * len(SEATS)
    return took


class _Data:
    """What the judge's callback needs of the data module."""

    def __init__(self) -> None:
        self.loop, self.team, self.epoch = EventLoop(), Row(), 0
        self.verdicts: dict[str, Verdict] = {}
        self.episodes: list[Episode] = []
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        yield

    def everyone(self) -> tuple[list[Episode], dict[str, Verdict]]:
        return self.episodes, self.verdicts
