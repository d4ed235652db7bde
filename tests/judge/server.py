"""A judge on loopback: a real HTTP server that speaks the chat completions protocol, well or badly, and counts."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping

from aiohttp import web

TOKENS_IN = 50
TOKENS_OUT = 7
GOOD = '{"reason": "sound work", "code": "CODE", "process_score": 8}'

Reply = str | Mapping[str, object]
Script = Callable[[dict, int], Reply]


def code_in(body: Mapping) -> str:
    """What the request asks its verdict to carry."""
    return (re.findall(r"\b[0-9a-f]{6}\b", body["messages"][-1]["content"]) or ["none"])[-1]


class FakeJudge:
    """Answers what `script(request body, how often this prompt was seen)` says: a fault's name, or a reply's text.

    `CODE` in a reply becomes what the request asked for.

    Faults: slow, rate_limited, broken, cut, nonsense, wrong_schema, refusal, empty, 401, 403, 404, 400:<message>.
    """

    def __init__(self, script: Script | None = None, seconds: float = 0.0, slow_s: float = 30.0) -> None:
        self.script = script or (lambda body, seen: GOOD)
        self.seconds = seconds
        self.slow_s = slow_s
        self.retry_after: str | None = None
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.seen: Counter[str] = Counter()
        self.billed = 0
        """Completions that were sent in full."""
        self.answers: Counter[str] = Counter()
        """Kind of answer -> how many were given."""
        self.most_at_once = 0
        self.called = asyncio.Event()
        self._at_once = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def __aenter__(self) -> FakeJudge:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.called.set()
        prompt = json.dumps(body["messages"])
        self.seen[prompt] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self.script(body, self.seen[prompt] - 1)
            await asyncio.sleep(self.seconds)
            return await self._answer(request, answer, code_in(body))
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request, answer: Reply, code: str) -> web.StreamResponse:
        kind = answer if isinstance(answer, str) else "full"
        self.answers[kind if len(kind) < 20 else "reply"] += 1
        if kind == "slow":
            await asyncio.sleep(self.slow_s)
            return web.Response(status=504)
        if kind == "rate_limited":
            headers = {"Retry-After": self.retry_after} if self.retry_after is not None else {}
            return error(429, "slow down", headers)
        if kind == "broken":
            return web.Response(status=500, text="<html>oops</html>")
        if kind in ("401", "403", "404"):
            key = request.headers.get("Authorization", "").removeprefix("Bearer ")
            return error(int(kind), f"Incorrect API key provided: {key}. Unknown model.")
        if match := re.fullmatch(r"(4\d\d):(.*)", kind):
            return error(int(match[1]), match[2])
        if kind == "nonsense":
            return web.Response(text="<html>a proxy's greeting</html>", content_type="text/html")
        if kind == "wrong_schema":
            return web.json_response({"object": "list", "data": []})
        text = json.dumps(answer if isinstance(answer, Mapping) else completion(kind)).replace("CODE", code)
        if kind == "cut":
            response = web.StreamResponse(
                headers={"Content-Length": str(len(text)), "Content-Type": "application/json"}
            )
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            request.transport.close()
            return response
        self.billed += 1
        return web.Response(text=text, content_type="application/json")


def completion(text: str, **fields) -> dict:
    """A chat completion of `text`; `refusal` and `empty` are what they say."""
    message = {"role": "assistant", "content": text}
    if text == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I cannot judge that."}
    elif text == "empty":
        message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "finish_reason": "stop", "message": message} | fields
    usage = {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "e", "code": None}}, status=status, headers=headers)


def is_trial(body: dict) -> bool:
    """Whether this is the one call that is made before the first rollout."""
    return len(body["messages"]) == 1
