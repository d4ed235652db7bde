"""Teams as they come out of training, and the real server before them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import uvicorn

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.serving.app import Limits, make_app
from mappa.serving.served import served
from mappa.serving.stored import stored
from mappa.train import train
from mappa.types import StopReason
from tests.conftest import compose_config, write_hydra_folder

ROOMY = Limits(512, 120.0)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`untrained(experiment)`: the folder of a run of no epochs; its adapters say what the base says."""
    made: dict[str, Path] = {}

    def make(experiment: str) -> Path:
        if experiment not in made:
            folder = tmp_path_factory.mktemp(experiment) / "run"
            words = [f"+experiment={experiment}", "trainer.max_epochs=0", "callbacks.validation.limit=1"]
            cfg = compose_config([*words, "sandbox.warm=2"], folder)
            write_hydra_folder(cfg, folder)
            train(cfg)
            made[experiment] = folder
        return made[experiment]

    return make


class ScriptedEngine(BaseEngine):
    """Says what `script` has for an agent, `seconds` later; everything around it is real."""

    shares_weights = False
    context_length = 512

    def __init__(self, script: dict[str, str], seconds: float = 0.0) -> None:
        self.script, self.seconds = script, seconds
        self.asked: list[str] = []
        self.cancelled = 0

    def attach(self, adapters, chat, model_path) -> None:
        self._chat = chat

    async def sync(self, version: int) -> None: ...

    async def generate(self, agent: str, prompt_ids, sampling: Sampling) -> Completion:
        self.asked.append(agent)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        ids = (*self._chat.tokenizer.encode(self.script[agent], add_special_tokens=False), self._chat.eos_id)
        return Completion(ids, (-0.1,) * len(ids), StopReason.STOP, 0)


class Endpoint:
    def __init__(self, port: int, desk) -> None:
        self.url, self.desk = f"http://127.0.0.1:{port}", desk

    def client(self, key: str = "none", retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries, timeout=120)

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while self.desk.busy and time.monotonic() < end:
            time.sleep(0.02)
        assert self.desk.busy == 0


@contextmanager
def serving(
    folder: Path, limits: Limits = ROOMY, key: str | None = None, engine=None, hosts=("127.0.0.1",)
) -> Iterator[Endpoint]:
    """The team of a run folder behind the real server, in a thread of its own."""
    app = make_app(lambda: served(stored(folder), engine), limits, key, hosts)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield Endpoint(server.servers[0].sockets[0].getsockname()[1], app.state.desk)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def quickstart(untrained) -> Iterator[Endpoint]:
    with serving(untrained("quickstart")) as endpoint:
        yield endpoint
