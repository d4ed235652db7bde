"""OpenAI's shapes: what a chat completion is asked with, answered with, and refused with."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mappa.serving.served import Reply
from mappa.types import Action, Message

MOST_CHOICES = 16
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", max_length=200)]
"""Within the workspace: no way out of it can be written."""
Base64 = Annotated[bytes, BeforeValidator(lambda text: base64.b64decode(text, validate=True))]


class ApiError(Exception):
    """Answered in OpenAI's shape."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Part(BaseModel):
    type: str
    text: str = ""


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def as_text(self) -> str:
        """
        Raises:
            ApiError: it holds something else than text.
        """
        if isinstance(self.content, str):
            return self.content
        other = next((part.type for part in self.content if part.type != "text"), None)
        if other is not None:
            raise ApiError(400, f"content of type '{other}' cannot be read; send text")
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """Fields of OpenAI's that mean nothing here (e.g. `user`) are ignored; those that would change the answer are
    refused by name."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    trajectory: bool = False
    """Answer with every action, too."""
    views: dict[str, str] | None = None
    """Seat -> what it alone is shown, of a dialogue."""
    files: dict[FileName, Base64] | None = None
    """Name -> content in base64, put into the team's workspace; then what it makes there is given back likewise."""

    def check(self) -> None:
        """
        Raises:
            ApiError: it asks for what is not done.
        """
        for name in ("tools", "functions", "response_format", "stop", "logit_bias", "logprobs", "audio"):
            if (self.model_extra or {}).get(name) not in (None, False, [], {}, "", {"type": "text"}):
                raise ApiError(400, f"'{name}' is not supported; leave it out")

    def chat(self) -> list[Message]:
        roles = {"developer": "system"}
        return [Message(roles.get(m.role, m.role), m.as_text()) for m in self.messages]

    def question(self) -> str:
        """What the team is asked: the one message, or the whole conversation as text."""
        messages = self.chat()
        if len(messages) == 1:
            return messages[0].content
        return "\n\n".join(f"{m.role}: {m.content}" for m in messages)


def completion(id: str, request: ChatRequest, replies: Sequence[Reply]) -> dict[str, Any]:
    choices = []
    for index, reply in enumerate(replies):
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.actions:
            message["reasoning_content"] = "".join(map(step, reply.actions))
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": finish(reply)})
    found = _head(id, "chat.completion", request) | {"choices": choices, "usage": usage(replies)}
    return found | extras(request, replies)


def chunk(id: str, request: ChatRequest, index: int, delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": end}
    return _head(id, "chat.completion.chunk", request) | {"choices": [choice]}


def last_chunk(id: str, request: ChatRequest, replies: Sequence[Reply]) -> dict[str, Any] | None:
    """Usage, trajectory and files, for who has asked for them."""
    more = extras(request, replies)
    if request.stream_options is not None and request.stream_options.include_usage:
        more["usage"] = usage(replies)
    return _head(id, "chat.completion.chunk", request) | {"choices": []} | more if more else None


def step(action: Action) -> str:
    """One action of the team as its reasoning tells it."""
    said = f"[{action.seat}] {action.text.strip()}\n"
    return f"{said}[{action.seat} ran it: {action.tool.status}] {action.tool.text.strip()}\n" if action.tool else said


def finish(reply: Reply) -> str:
    return "length" if reply.truncated else "stop"


def usage(replies: Sequence[Reply]) -> dict[str, int]:
    prompt, said = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def extras(request: ChatRequest, replies: Sequence[Reply]) -> dict[str, Any]:
    """For who has asked: of each choice its actions, in the form in which episodes are stored, and its files."""
    found: dict[str, Any] = {}
    if request.trajectory:
        found["trajectory"] = [[asdict(action) for action in reply.actions] for reply in replies]
    if request.files is not None:
        found["files"] = [{name: _base64(content) for name, content in reply.files.items()} for reply in replies]
    return found


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def models(names: Sequence[str], owner: str, created: int) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": created, "owned_by": owner} for name in names]
    return {"object": "list", "data": data}


def _head(id: str, kind: str, request: ChatRequest) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": request.model}
