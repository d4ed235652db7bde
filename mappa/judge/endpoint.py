"""One call to an OpenAI-compatible endpoint: what came back, or precisely how it failed. Never retries by itself.

The client's own retries are off, so that each call is entered in the ledger. Endpoints differ in what they accept;
a feature that an endpoint refuses by name (structured output, log-probabilities, the name of the token limit, a
temperature) is dropped for good with one warning, and the call may be made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mappa.judge.limits import parse_retry_after
from mappa.judge.prompt import ChatMessages
from mappa.judge.reply import CallError, Reply, read_completion
from mappa.judge.secret import Secret

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

FATAL = {401: "the API key is refused", 403: "the API key may not use this model", 404: "no such model or address"}
RETRIABLE = {408, 409, 425, 429}
TOP_LOGPROBS = 20
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "reason": {"type": "string", "description": "The judgement in a few sentences."},
                "process_score": {"type": "integer", "description": "Whole number from 0 to 10."},
            },
            "required": ["reason", "process_score"],
            "additionalProperties": False,
        },
    },
}
"""Reason before score: what is written first informs what follows."""


@dataclass(frozen=True)
class Dialect:
    """What is asked of the endpoint beyond the messages."""

    structured: bool
    logprobs: bool
    temperature: float | None
    limit: str = "max_tokens"

    def request(self, max_tokens: int) -> dict[str, Any]:
        request: dict[str, Any] = {self.limit: max_tokens}
        if self.temperature is not None:
            request["temperature"] = self.temperature
        if self.structured:
            request["response_format"] = _SCHEMA
        if self.logprobs:
            request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return request

    def without(self, complaint: str, insist: bool) -> Dialect:
        """The dialect that avoids what a refusal complains of; itself if it names nothing that can be left out."""
        said = complaint.lower()
        if self.logprobs and "logprobs" in said:
            return replace(self, logprobs=False)
        if self.limit == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, limit="max_completion_tokens")
        if self.temperature is not None and "temperature" in said:
            return replace(self, temperature=None)
        named = any(word in said for word in ("response_format", "json_schema", "schema", "structured", "grammar"))
        if self.structured and not insist and named:
            return replace(self, structured=False)
        return self


class Endpoint:
    """A model behind a URL. The client is made at the first call, on the loop that makes it."""

    def __init__(
        self,
        base_url: str,
        key: Secret,
        model: str,
        dialect: Dialect,
        insist: bool,
        timeout_s: float,
        extra_body: Mapping[str, Any] | None,
    ) -> None:
        """`insist`: structured output is never dropped."""
        self.name = f"{model} at {urlsplit(base_url).hostname or base_url}"
        self._base_url = base_url
        self._key = key
        self._model = model
        self._dialect = dialect
        self._insist = insist
        self._timeout = timeout_s
        self._extra = dict(extra_body or {})
        self._client: openai.AsyncOpenAI | None = None

    async def ask(
        self, messages: ChatMessages, max_tokens: int, timeout_s: float | None = None, trial: bool = False
    ) -> Reply:
        """One call. In a `trial`, any 400 is put down to structured output first.

        Raises:
            CallError: there is no completion; says why and what may be done.
        """
        import openai

        client, dialect, seconds = self._connected(), self._dialect, min(self._timeout, timeout_s or self._timeout)
        try:
            async with asyncio.timeout(seconds):
                raw = await client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,
                    timeout=seconds,
                    extra_body=dialect.request(max_tokens) | self._extra,
                )
            return read_completion(raw.http_response.text)
        except (TimeoutError, openai.APIConnectionError) as error:
            raise self._unreachable(error, seconds) from None
        except openai.APIStatusError as error:
            raise self._refused(error, dialect, trial) from None
        except openai.OpenAIError as error:
            raise CallError("client_error", self._line(str(error))) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> openai.AsyncOpenAI:
        import openai

        if self._client is None:
            # The transport logs every request's URL at INFO: one line an action, and some endpoints take keys in it.
            for transport in ("httpx", "httpx2"):
                logging.getLogger(transport).setLevel(logging.WARNING)
            key = self._key.reveal() or "none"  # an empty one would be looked up in the environment
            self._client = openai.AsyncOpenAI(base_url=self._base_url, api_key=key, max_retries=0)
        return self._client

    def _unreachable(self, error: Exception, seconds: float) -> CallError:
        """Nothing came back, or not all of it: only a connection that was never made is free for certain."""
        sent = type(error.__cause__).__name__ not in _NOT_SENT
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return CallError("timeout", f"{self.name}: no answer within {seconds:g} s", retriable=True, billed=sent)
        if sent:
            return CallError("broken", f"{self.name}: the reply was cut off", retriable=True, billed=True)
        return CallError("unreachable", f"{self.name}: no connection", retriable=True)

    def _refused(self, error: openai.APIStatusError, dialect: Dialect, trial: bool) -> CallError:
        code, status = error.status_code, f"http_{error.status_code}"
        headers = error.response.headers
        message = self._line(f"{code}: {error.message.removeprefix(f'Error code: {code}').lstrip(' -')}")
        if code in FATAL:
            return CallError(status, f"{message} - {FATAL[code]}", fatal=True)
        if code in (400, 422):
            if dialect != self._dialect:
                return CallError(status, message, again=True)
            self._dialect = dialect.without(f"{error.message} {error.body}", self._insist)
            if trial and dialect == self._dialect and not self._insist:
                self._dialect = replace(dialect, structured=False)
            if dialect != self._dialect:
                changed = [name for name, value in vars(dialect).items() if vars(self._dialect)[name] != value]
                log.warning("judge %s refuses `%s`; it is no longer asked for it (%s)", self.name, changed[0], message)
                return CallError(status, message, again=True)
        wait = parse_retry_after(headers.get("retry-after"), headers.get("retry-after-ms"))
        return CallError(status, message, retriable=code in RETRIABLE or code >= 500, retry_after=wait)

    def _line(self, message: str) -> str:
        """One line, without the key."""
        return self._key.scrub(f"{self.name}: {' '.join(message.split())[:300]}")
