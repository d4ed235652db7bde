"""The openai engine against a real HTTP server on the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from mappa.engine.base import Completion, Sampling
from mappa.engine.openai import OpenAIEngine
from mappa.errors import EngineError
from mappa.types import BASE, StopReason

ADAPTERS = SimpleNamespace(base=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=128)))
CHOICE = {
    "index": 0,
    "text": "ab",
    "token_ids": [11, 12, 2],
    "finish_reason": "stop",
    "logprobs": {"tokens": ["a", "b", ""], "token_logprobs": [-0.5, -1.5, -0.1]},
}
Reply = Callable[[dict[str, Any], int], web.Response]


class Server:
    """Answers `/v1/completions` with what `reply(body, number of the request)` says and keeps what it was asked."""

    def __init__(self) -> None:
        self.reply: Reply = lambda body, number: completion()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        return self.reply(self.asked[-1], len(self.asked))


def completion(**changes: Any) -> web.Response:
    choice = {key: value for key, value in {**CHOICE, **changes}.items() if value != "absent"}
    return web.json_response({"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/completions", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(server.url, "base", {"solver": "solver-adapter"}, api_key_env="MAPPA_TEST_KEY", retries=2)
    engine.attach(ADAPTERS, SimpleNamespace(stop_ids=(2,)), "unused")
    yield engine
    await engine.close()


async def test_tokens_go_in_and_come_out(engine: OpenAIEngine, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPPA_TEST_KEY", "sesame")
    await engine.sync(7)
    got = await engine.generate("solver", (5, 6, 7), Sampling(max_tokens=9, temperature=0.6, top_p=0.9, seed=2**62))
    assert got == Completion((11, 12, 2), (-0.5, -1.5, -0.1), StopReason.STOP, 7)
    asked = server.asked[0]
    assert (asked["prompt"], asked["max_tokens"], asked["temperature"]) == ([5, 6, 7], 9, 0.6)
    assert (asked["top_p"], asked["seed"], asked["return_token_ids"]) == (0.9, 2**62, True)
    assert asked["stop_token_ids"] == [2]
    assert server.keys == ["Bearer sesame"]


async def test_each_agent_has_its_own_name_or_the_common_one(engine: OpenAIEngine, server: Server) -> None:
    for agent in ("solver", "verifier", BASE):
        await engine.generate(agent, (5,), Sampling(max_tokens=4))
    assert [asked["model"] for asked in server.asked] == ["solver-adapter", "base", "base"]


async def test_a_spent_budget_is_a_truncated_completion(engine: OpenAIEngine, server: Server) -> None:
    server.reply = lambda body, number: completion(finish_reason="length")
    assert (await engine.generate("solver", (5,), Sampling(max_tokens=3))).stop_reason is StopReason.LENGTH


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": "absent"}, "does not give token ids back"),
        ({"token_ids": None}, "does not give token ids back"),
        ({"logprobs": None}, "one log-probability per sampled token"),
        ({"token_ids": [11, 12]}, "one log-probability per sampled token"),
        ({"finish_reason": "content_filter"}, "finish_reason=content_filter"),
    ],
)
async def test_a_server_that_cannot_serve_tokens_is_refused(
    engine: OpenAIEngine, server: Server, changes: dict[str, Any], message: str
) -> None:
    server.reply = lambda body, number: completion(**changes)
    with pytest.raises(EngineError, match=message):
        await engine.generate("solver", (5,), Sampling(max_tokens=4))


async def test_greedy_decoding_is_asked_for_as_such(engine: OpenAIEngine, server: Server) -> None:
    await engine.generate("solver", (5,), Sampling(max_tokens=4, temperature=0.0))
    assert server.asked[-1]["temperature"] == 0.0


async def test_passing_failures_are_tried_again_and_lasting_ones_are_one_line(
    engine: OpenAIEngine, server: Server
) -> None:
    server.reply = lambda body, number: completion() if number == 2 else web.Response(status=503)
    assert (await engine.generate("solver", (5,), Sampling(max_tokens=4))).token_ids == (11, 12, 2)
    assert len(server.asked) == 2

    server.reply = lambda body, number: web.json_response({"error": {"message": "no such model"}}, status=404)
    with pytest.raises(EngineError, match=r"refuses model 'base': .*404.*no such model") as error:
        await engine.generate("verifier", (5,), Sampling(max_tokens=4))
    assert "\n" not in str(error.value)


async def test_a_server_that_is_not_there(server: Server) -> None:
    engine = OpenAIEngine("http://127.0.0.1:1/v1", "base", retries=0)
    engine.attach(ADAPTERS, SimpleNamespace(stop_ids=(2,)), "unused")
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1/v1 cannot be reached"):
        await engine.generate("solver", (5,), Sampling(max_tokens=4))
    await engine.close()
    await engine.close()


async def test_learning_agents_and_overlong_prompts_are_refused(engine: OpenAIEngine, server: Server) -> None:
    await engine.sync(3)
    await engine.sync(3)
    with pytest.raises(EngineError, match=r"fixed weights \(version 3\).*version 4"):
        await engine.sync(4)
    with pytest.raises(EngineError, match="exceeds the context of 128 tokens"):
        await engine.generate("solver", (5,) * 120, Sampling(max_tokens=9))
    assert server.asked == []
