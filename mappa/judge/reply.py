"""What an endpoint sent back, as far as it can be read. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mappa.judge.expected import Distribution

LONGEST_RAW = 20_000


@dataclass(frozen=True)
class Reply:
    """A completion, readable as a score or not."""

    text: str
    refusal: str
    cut_off: bool
    """It ended at its token limit."""
    usage: tuple[int, int] | None
    """Tokens in and out; None if the endpoint does not say."""
    tokens: tuple[tuple[str, Distribution], ...] = ()


class CallError(Exception):
    """A call without a completion."""

    def __init__(
        self,
        status: str,
        message: str,
        *,
        retriable: bool = False,
        again: bool = False,
        fatal: bool = False,
        billed: bool = False,
        retry_after: float | None = None,
        raw: str = "",
    ) -> None:
        """`again`: at once, in the dialect learnt from it. `billed`: it may have been charged for."""
        super().__init__(message)
        self.status = status
        self.retriable = retriable
        self.again = again
        self.fatal = fatal
        self.billed = billed
        self.retry_after = retry_after
        self.raw = raw


def read_completion(body: str) -> Reply:
    """The first choice of a chat completion, whatever an endpoint left out of it. Pure.

    Raises:
        CallError: the body is no completion (not JSON, other schema).
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        if content is not None and not isinstance(content, str):
            raise TypeError("content is no text")
        refusal = str(message.get("refusal") or "")
        usage = _usage(data.get("usage"))
        tokens = _tokens(choice.get("logprobs"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the reply is no chat completion ({type(error).__name__})"
        raise CallError("nonsense", reason, retriable=True, billed=True, raw=body[:LONGEST_RAW]) from None
    return Reply(content or "", refusal, choice.get("finish_reason") == "length", usage, tokens)


def _usage(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    pair = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return pair if all(type(n) is int and n >= 0 for n in pair) else None


def _tokens(logprobs: object) -> tuple[tuple[str, Distribution], ...]:
    """Tokens with their alternatives; empty if the endpoint gave none, or gave them in another form."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    tokens = []
    for item in content:
        listed = {top["token"]: float(top["logprob"]) for top in item.get("top_logprobs") or ()}
        tokens.append((item["token"], {item["token"]: float(item["logprob"])} | listed))
    return tuple(tokens)
