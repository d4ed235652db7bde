"""One call to an OpenAI-compatible endpoint: what came back, or precisely how it failed. Never retries by itself.

It speaks HTTP itself: a vendor's client takes ten times the processor time, and a judge is asked hundreds of times an
epoch. Each call is made once, so that each is entered in the ledger. Endpoints differ in what they accept;
a feature that an endpoint refuses by name (structured output, log-probabilities, the name of the token limit, a
temperature) is dropped for good with one warning. That is learnt in the trial call alone, which holds no agent's text:
a refusal that echoes such text says nothing about the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from mappa.errors import ConfigError
from mappa.judge.llm.limits import parse_retry_after
from mappa.judge.llm.parse import Distribution

if TYPE_CHECKING:
    import aiohttp
    from pydantic import NonNegativeFloat, PositiveInt

log = logging.getLogger(__name__)

ChatMessages = list[dict[str, str]]
TRIAL: ChatMessages = [{"role": "user", "content": 'Reply with {"reason": "ready", "process_score": 0} and no more.'}]
REFUSALS = {401: "the API key is refused", 403: "the key may not use this model", 404: "no such model or address"}
RETRIABLE = {408, 409, 425, 429}
NO_CREDIT = ("insufficient_quota", "credit balance is too low", "exceeded your current quota", "billing_hard_limit")
TOP_LOGPROBS = 20
LARGEST = 8 << 20
"""Bytes of a reply that are read; log-probabilities of a few thousand tokens are less."""
LONG = 1 << 17
"""Characters of a reply past which it is taken apart in a thread."""
LONGEST_RAW = 20_000
SHORTEST_KEY = 8
"""Shorter keys are placeholders (`none`, `ollama`) that ordinary text may contain."""


@dataclass(frozen=True)
class Request:
    """What is asked of the endpoint beyond the messages."""

    structured: Literal["auto", "true", "false"] | bool = "auto"
    """JSON schema output; `auto` tries and falls back to text, true insists, false never asks."""
    logprobs: bool = False
    """Score = mean of the score token's distribution where the endpoint returns it."""
    temperature: NonNegativeFloat | None = 0.0
    """null leaves it to the endpoint."""
    max_tokens: PositiveInt = 2048
    """Longest reply, reasoning included."""
    samples: PositiveInt = 1
    """Replies per action, averaged over those that can be read; needs a temperature above 0."""
    extra_body: Mapping[str, Any] | None = None
    """Added to each request as it is."""

    def __post_init__(self) -> None:
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError("judge.request.samples above 1 needs judge.request.temperature above 0, or null")
        if str(self.structured).lower() not in ("auto", "true", "false"):
            raise ConfigError(f"judge.request.structured must be auto, true or false, not '{self.structured}'")

    def asks_for(self, mode: str) -> bool:
        return str(self.structured).lower() == mode


@dataclass(frozen=True)
class Reply:
    """A completion, readable as a score or not."""

    text: str
    refusal: str = ""
    cut_off: bool = False
    """It ended at its token limit."""
    usage: tuple[int, int] | None = None
    """Tokens in and out that are billed; None if the endpoint does not say."""
    tokens: tuple[tuple[str, Distribution], ...] = ()


@dataclass(eq=False)
class CallError(Exception):
    """A call without a completion."""

    status: str
    message: str
    retriable: bool = False
    suspect: bool = False
    """It may be that no call will ever work: a trial call tells."""
    billed: bool = False
    """It may have been charged for."""
    retry_after: float | None = None
    raw: str = ""

    def __str__(self) -> str:
        return self.message


class Key:
    """An API key, from the environment; it cannot be printed, logged, stored or pickled by accident."""

    def __init__(self, variable: str | None) -> None:
        """`variable`: that holds it; None = the endpoint asks for none. Surrounding white space is dropped.

        Raises:
            ConfigError: it cannot be a header; the key is not shown.
        """
        self.variable = variable
        self._value = (os.environ.get(variable, "") if variable else "none").strip()
        if not (self._value.isascii() and self._value.isprintable()):
            raise ConfigError(f"{variable} holds characters that no API key has; look for quotes or line breaks in it")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Key({self.variable})"

    def __reduce__(self):
        raise TypeError("an API key is never written out")

    def reveal(self) -> str:
        return self._value

    def scrub(self, text: str) -> str:
        """`text` without the key, as it is, as part of a URL or of JSON."""
        if len(self._value) < SHORTEST_KEY:
            return text
        for form in {self._value, quote(self._value, safe=""), json.dumps(self._value)[1:-1]}:
            text = text.replace(form, "***")
        return text


@dataclass(frozen=True)
class Dialect:
    """How an endpoint is asked for what a `Request` wants."""

    structured: bool
    logprobs: bool
    temperature: float | None
    limit: str = "max_tokens"

    def body(self, max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {self.limit: max_tokens}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.structured:
            body["response_format"] = SCHEMA
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body

    def without(self, complaint: str, insist: bool) -> Dialect:
        """The dialect that avoids what a refusal complains of; where it names nothing, structured output goes first."""
        said = complaint.lower()
        if self.logprobs and "logprobs" in said:
            return replace(self, logprobs=False)
        if self.limit == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, limit="max_completion_tokens")
        if self.temperature is not None and "temperature" in said:
            return replace(self, temperature=None)
        return self if insist else replace(self, structured=False)


_TEXTS = {"reason": "The judgement in a few sentences.", "code": "The code that the request names, letter by letter."}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                **{name: {"type": "string", "description": text} for name, text in _TEXTS.items()},
                "process_score": {"type": "integer", "description": "Whole number from 0 to 10."},
            },
            "required": [*_TEXTS, "process_score"],
            "additionalProperties": False,
        },
    },
}
"""Reason before score: what is written first informs what follows. The same for all requests: endpoints compile it."""


class Client:
    """A model behind a URL. The connection is made at the first call, on the loop that makes it."""

    def __init__(self, base_url: str, key: Key, model: str, request: Request, timeout_s: float) -> None:
        """
        Raises:
            ConfigError: the URL has no scheme or no host.
        """
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
            raise ConfigError(f"judge.base_url={base_url} is no URL; write http://HOST:PORT/v1 or https://HOST/v1")
        self.name = f"{model} at {urlsplit(base_url).hostname}"
        self.proven = False
        """A trial call has worked, so that the dialect is the endpoint's."""
        self._base_url, self._key, self._model, self._request = base_url, key, model, request
        self._address = f"{base_url.rstrip('/')}/chat/completions"
        self._dialect = Dialect(not request.asks_for("false"), request.logprobs, request.temperature)
        self._timeout = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, messages: ChatMessages, timeout_s: float | None = None, trial: bool = False) -> Reply:
        """One call. A `trial` that is refused teaches the dialect: it is to be made again while that changes.

        Raises:
            CallError: there is no completion; says why and what may be done.
        """
        import aiohttp

        seconds = min(self._timeout, timeout_s or self._timeout)
        body = {"model": self._model, "messages": messages} | self._dialect.body(self._request.max_tokens)
        body |= self._request.extra_body or {}
        try:
            async with asyncio.timeout(seconds), self._connected().post(self._address, json=body) as response:
                said = await _read_all(response)
                if not response.ok:
                    raise self._refused(response.status, said, response.headers, trial)
        except TimeoutError:
            text = f"{self.name}: no answer within {seconds:g} s"
            raise CallError("timeout", text, retriable=True, billed=True) from None
        except aiohttp.ClientConnectorError as error:  # the one failure that is free for certain
            text = self._line(f"no connection to {self._base_url} ({error})")
            raise CallError("unreachable", text, retriable=True) from None
        except aiohttp.ClientError as error:
            text = self._line(f"the reply was cut off ({error})")
            raise CallError("broken", text, retriable=True, billed=True) from None
        reply = await asyncio.to_thread(read_completion, said) if len(said) > LONG else read_completion(said)
        self.proven = self.proven or trial
        return reply

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _connected(self) -> aiohttp.ClientSession:
        """As many connections as there are calls: how many those may be is the gate's matter."""
        if self._session is None:
            import aiohttp
            import httpx2

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=httpx2.create_ssl_context()),
                headers={"Authorization": f"Bearer {self._key.reveal()}"},
                timeout=aiohttp.ClientTimeout(),
                trust_env=True,
            )
        return self._session

    def _refused(self, code: int, said: str, headers: Mapping[str, str], trial: bool) -> CallError:
        status, message = f"http_{code}", self._line(f"{code}: {said}")
        if code == 402 or any(word in said.lower() for word in NO_CREDIT):
            return CallError("no_credit", f"{message} - the account has no credit left", suspect=True)
        if code in REFUSALS:
            return CallError(status, f"{message} - {REFUSALS[code]}", suspect=True)
        if code in (400, 422):
            if trial:
                self._learn(said, message)
            return CallError(status, message, suspect=not self.proven)
        wait = parse_retry_after(headers.get("retry-after"), headers.get("retry-after-ms"))
        return CallError(status, message, retriable=code in RETRIABLE or code >= 500, retry_after=wait)

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    def _learn(self, complaint: str, message: str) -> None:
        before, self._dialect = self._dialect, self._dialect.without(complaint, self._request.asks_for("true"))
        changed = [name for name, value in vars(before).items() if vars(self._dialect)[name] != value]
        if changed:
            log.warning("judge %s refuses `%s`; it is no longer asked for it (%s)", self.name, changed[0], message)

    def _line(self, message: str) -> str:
        """One line, without the key."""
        return self._key.scrub(f"{self.name}: {' '.join(message.split())[:300]}")


async def _read_all(response: aiohttp.ClientResponse) -> str:
    """The body, if it is no longer than a judge's may be."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LARGEST:
            text = f"the reply is larger than {LARGEST >> 20} MiB"
            raise CallError("too_large", text, billed=True, raw=body[:LONGEST_RAW].decode("utf-8", "replace"))
    return body.decode("utf-8", "replace")


def read_completion(body: str) -> Reply:
    """The first choice of a chat completion, whatever an endpoint left out of it. Pure.

    Raises:
        CallError: the body is no completion (not JSON, other schema).
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        if content is not None and not isinstance(content, str):
            raise TypeError("content is no text")
        refusal = str(choice["message"].get("refusal") or "")
        tokens = _tokens(choice.get("logprobs"))
        cut_off = choice.get("finish_reason") == "length"
        return Reply(content or "", refusal, cut_off, _usage(data.get("usage")), tokens)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the reply is no chat completion ({type(error).__name__})"
        raise CallError("nonsense", reason, retriable=True, billed=True, raw=body[:LONGEST_RAW]) from None


def _usage(usage: object) -> tuple[int, int] | None:
    """Tokens in and out. What a provider thinks in secret (Gemini) stands in the total alone, and is billed."""
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total")]
    if not all(type(n) is int and n >= 0 for n in counts[:2]):
        return None
    total = counts[2] if type(counts[2]) is int else 0
    return counts[0], max(counts[1], total - counts[0])


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
