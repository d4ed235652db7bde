"""The endpoint: a team, and each of its agents, as models of an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mappa.errors import EngineError
from mappa.seed import stable_seed
from mappa.serving import wire
from mappa.serving.served import Reply, ServedTeam, TooLongError, Way
from mappa.serving.wire import ApiError, ChatRequest
from mappa.types import Action
from sandbox import SandboxError

TEAM = "team"
"""The model that is the whole team."""
Answer = Callable[[int, Callable[[Action], Awaitable[None]]], Awaitable[Reply]]
"""(choice, told of each action) -> its reply."""


@dataclass(frozen=True)
class Limits:
    answers: int
    """Being made or waited for at once; past them 429."""
    seconds: float
    """Of one request."""


class Desk:
    """What the routes share: the team, once it is there, and how much it has to do."""

    def __init__(self, limits: Limits) -> None:
        self.team: ServedTeam
        self.limits = limits
        self.busy = 0
        self.started = int(time.time())

    def take(self, count: int) -> None:
        """Places for so many answers, until they are given back.

        Raises:
            ApiError: too much is asked for at once.
        """
        if self.busy + count > self.limits.answers:
            raise ApiError(429, f"{self.busy} answers are being made; try again later", "rate_limit_error", "busy")
        self.busy += count

    def give(self, count: int) -> None:
        self.busy -= count

    def models(self) -> list[str]:
        return [TEAM, *(name for name in self.team.agents if name != TEAM)]

    def answer(self, request: ChatRequest) -> Answer:
        """How one choice is made.

        Raises:
            ApiError: it cannot be.
        """
        request.check()
        if request.model not in self.models():
            raise ApiError(
                404, f"model '{request.model}' is unknown; there are {', '.join(self.models())}", code="model_not_found"
            )
        default, seed = self.team.way, secrets.randbits(62) if request.seed is None else request.seed
        temperature = default.temperature if request.temperature is None else request.temperature
        top_p = default.top_p if request.top_p is None else request.top_p
        messages, views = request.chat(), {"views": request.views} if request.views else {}

        async def one(index: int, tell: Callable[[Action], Awaitable[None]]) -> Reply:
            way = Way(stable_seed(seed, index), temperature, top_p)
            if request.model != TEAM:
                length = request.max_completion_tokens or request.max_tokens
                return await self.team.say(request.model, messages, way, length)
            return await self.team.play(request.question(), way, tell, request.files, **views)

        return one


def make_app(
    open_team: Callable[[], AbstractAsyncContextManager[ServedTeam]],
    limits: Limits,
    key: str | None = None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """
    Args:
        open_team: called when the server starts, on its event loop.
        key: what clients have to bring as a bearer token; None = nothing.
        hosts: names under which it may be called, against pages that lead a browser here by another name.
    """
    desk = Desk(limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with open_team() as desk.team:
            yield

    app = FastAPI(title="mappa", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _errors(app)

    def check_key(request: Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "the key is missing or wrong", "authentication_error", "invalid_api_key")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "busy": desk.busy}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(request)
        return wire.models(desk.models(), desk.team.name, desk.started)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Any:
        check_key(request)
        answer, id = desk.answer(body), f"chatcmpl-{uuid.uuid4().hex}"
        desk.take(body.n or 1)
        work = _Work(desk, body, answer)
        if body.stream:
            return StreamingResponse(_events(id, body, work), media_type="text/event-stream")
        replies = await _unless_gone(request, work.task)
        return JSONResponse(wire.completion(id, body, replies))

    return app


class _Work:
    """All choices of a request, being made; its places are given back when that ends, however it does."""

    def __init__(self, desk: Desk, body: ChatRequest, answer: Answer) -> None:
        self.steps: asyncio.Queue[tuple[int, Action] | None] = asyncio.Queue()
        """(choice, action) as they are taken; None = the end."""
        self._seconds, self._count, self._answer = desk.limits.seconds, body.n or 1, answer
        self.task = asyncio.create_task(self._all())
        self.task.add_done_callback(lambda _: (desk.give(self._count), self.steps.put_nowait(None)))

    async def _all(self) -> list[Reply]:
        """The first failure ends the others.

        Raises:
            ApiError: says why, in OpenAI's words.
        """
        try:
            async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(index, self._tell(index))) for index in range(self._count)]
        except TimeoutError:
            raise ApiError(504, f"no answer within {self._seconds:g} s", "timeout_error", "timeout") from None
        except ExceptionGroup as errors:
            raise _as_api_error(errors.exceptions[0]) from errors
        return [task.result() for task in tasks]

    def _tell(self, index: int) -> Callable[[Action], Awaitable[None]]:
        async def tell(action: Action) -> None:
            self.steps.put_nowait((index, action))

        return tell


def _as_api_error(error: Exception) -> Exception:
    if isinstance(error, TooLongError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, EngineError | SandboxError):
        return ApiError(500, str(error), "server_error")
    return error


async def _unless_gone(request: Request, task: asyncio.Task[list[Reply]]) -> list[Reply]:
    """What `task` gives; it is cancelled when the client leaves."""
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has left")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(id: str, body: ChatRequest, work: _Work) -> AsyncIterator[str]:
    """Each action of the team as a delta of its reasoning, then the answer; the work ends with whoever listens."""
    try:
        for index in range(body.n or 1):
            yield _event(wire.chunk(id, body, index, {"role": "assistant", "content": ""}))
        while (found := await work.steps.get()) is not None:
            yield _event(wire.chunk(id, body, found[0], {"reasoning_content": wire.step(found[1])}))
        try:
            replies = work.task.result()
        except ApiError as error:
            yield _event(error.body)
            return
        for index, reply in enumerate(replies):
            yield _event(wire.chunk(id, body, index, {"content": reply.text}))
            yield _event(wire.chunk(id, body, index, {}, wire.finish(reply)))
        if (last := wire.last_chunk(id, body, replies)) is not None:
            yield _event(last)
        yield "data: [DONE]\n\n"
    finally:
        work.task.cancel()
        await asyncio.gather(work.task, return_exceptions=True)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _errors(app: FastAPI) -> None:
    """Every refusal in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 429 else None
        return JSONResponse(error.body, error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return await ours(request, ApiError(400, f"{where or 'body'}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return await ours(request, ApiError(error.status_code, f"{request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return await ours(request, ApiError(500, f"{type(error).__name__} in the server", "server_error"))
