"""How hard the judge may be asked: concurrency, requests and tokens a minute, back-off, and when it counts as down."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mappa.errors import ConfigError

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

BURST_SECONDS = 6.0
"""How much of a minute's allowance may be used at once after a pause."""


class Bucket:
    """Token bucket that may be overdrawn: one request larger than the burst waits its turn and is then let through."""

    def __init__(self, per_minute: float, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._rate = per_minute / 60.0
        self._capacity = max(self._rate * BURST_SECONDS, 1.0)
        self._level = self._capacity
        self._clock = clock
        self._sleep = sleep
        self._at = clock()

    async def take(self, amount: float) -> None:
        """Take `amount` as soon as the debts of all earlier takers are paid."""
        self._refill()
        self._level -= amount
        debt = min(amount, self._capacity) - (self._level + amount)
        if debt > 0:
            await self._sleep(debt / self._rate)

    def correct(self, amount: float) -> None:
        """Take `amount` more (or give it back, if negative) once the true size of a request is known."""
        self._refill()
        self._level = min(self._capacity, self._level - amount)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now


class Limits:
    """One gate for all calls of one process. Waiting for the gate costs an action none of its patience.

    Processes of one run share what is allowed: each takes an equal part (`share`), before its first call.
    """

    def __init__(
        self,
        max_concurrent: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._allowed = (max_concurrent, requests_per_minute, tokens_per_minute)
        self._clock = clock
        self._sleep = sleep
        self._closed_until = 0.0
        self.share(1)

    def share(self, processes: int) -> None:
        """Take this process's part of the run's allowance.

        Raises:
            ConfigError: some processes would get no call at all.
        """
        concurrent, requests, tokens = self._allowed
        if concurrent < processes:
            raise ConfigError(
                f"judge.max_concurrent={concurrent} leaves some of the {processes} processes without a call; "
                f"set at least {processes}"
            )
        self._slots = asyncio.Semaphore(concurrent // processes)
        self._requests = Bucket(requests / processes, self._clock, self._sleep) if requests else None
        self._tokens = Bucket(tokens / processes, self._clock, self._sleep) if tokens else None

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Hold one of the `max_concurrent` slots, entered when the rates allow a request of about `tokens`."""
        async with self._slots:
            if self._requests:
                await self._requests.take(1)
            if self._tokens:
                await self._tokens.take(tokens)
            while (wait := self._closed_until - self._clock()) > 0:
                await self._sleep(wait)
            yield

    def used(self, estimated: int, actual: int) -> None:
        """Tell the true number of tokens of a request that was let in as `estimated`."""
        if self._tokens:
            self._tokens.correct(actual - estimated)

    def pause(self, seconds: float) -> None:
        """Let no request start for `seconds`: the endpoint asked for it (429 with Retry-After)."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)


class Breaker:
    """Notices a judge that is down, so that a thousand actions do not each spend their whole patience on it.

    It opens when calls have failed for `patience_s` without one that succeeded; from then on one call every `retry_s`
    is let through as a trial, and the first that succeeds closes it.
    """

    def __init__(self, patience_s: float, retry_s: float, clock: Clock = time.monotonic) -> None:
        self._patience = patience_s
        self._retry = retry_s
        self._clock = clock
        self._failing_since: float | None = None
        self._next_trial = 0.0

    def allows(self) -> bool:
        """Whether a call may be made now; an allowed call while the breaker is open is the trial."""
        now = self._clock()
        if self._failing_since is None or now - self._failing_since < self._patience:
            return True
        if now < self._next_trial:
            return False
        self._next_trial = now + self._retry
        return True

    def succeeded(self) -> None:
        self._failing_since = None
        self._next_trial = 0.0

    def failed(self) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock()


def backoff(
    attempt: int, retry_after: float | None, dice: random.Random, base: float = 1.0, top: float = 60.0
) -> float:
    """Seconds to wait before the next attempt (0-based): exponential with jitter, never less than Retry-After asks."""
    wait = dice.uniform(0.5, 1.0) * min(top, base * 2**attempt)
    return wait if retry_after is None else max(retry_after, 0.0) + wait * 0.1


def parse_retry_after(value: str | None, milliseconds: str | None = None) -> float | None:
    """Seconds from a `Retry-After` (number or HTTP date) or `retry-after-ms` header; None if there is none to read."""
    for text, unit in ((milliseconds, 0.001), (value, 1.0)):
        try:
            seconds = float(text) * unit if text is not None else None
        except ValueError:
            seconds = None
        if seconds is not None and 0 <= seconds < float("inf"):
            return seconds
    try:
        moment = parsedate_to_datetime(value) if value else None
    except ValueError:
        return None
    if moment is None:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
