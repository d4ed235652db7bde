"""How well a judge is hidden behind generation: the real rollout, callback and HTTP client, and a slow endpoint."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
    """URL of a chat completions server that takes so long for each answer."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            time.sleep(seconds)
            code = re.findall(r"\b[0-9a-f]{6}\b", json.loads(asked)["messages"][-1]["content"])[-1:]  # of the request
            verdict = {"reason": "sound work", "code": "".join(code), "process_score": 8}
            message = {"role": "assistant", "content": json.dumps(verdict)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57}
            whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            body = json.dumps(whole | {"usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


def judged_rollout(engine: Any, seconds: float) -> float:
    """Seconds until the last verdict is in; with a judge that takes `seconds` a call, none of them if 0."""
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
        began = time.monotonic()
        data.episodes = data.loop.run(rollout.collect(jobs, "train", [callback], 1.0, 1.0))
        callback.on_train_epoch_start(trainer, module)
        took = time.monotonic() - began
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
