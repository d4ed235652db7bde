"""How hard the judge may be asked: concurrency, requests and tokens a minute, back-off, and when it counts as down."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from mappa.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

BURST_SECONDS = 6.0
"""How much of a minute's allowance may be used at once after a pause."""
WINDOW_SECONDS = 10.0
SPEED_UP = 0.995
"""Of the learnt interval after each call that was let through: twice as fast after 140."""


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


@dataclass(frozen=True)
class Limits:
    """What may be asked of the endpoint; the ranks of a run share the first three equally."""

    concurrent: PositiveInt = 128
    """Calls under way at once; more than there are episodes, else each slow answer holds up the next action's call."""
    requests_per_minute: PositiveFloat | None = None
    """null = as many as the endpoint lets through: what it refuses (429) teaches the rate."""
    tokens_per_minute: PositiveFloat | None = None
    """Prompt and reply; null = unlimited."""
    timeout_s: PositiveFloat = 120.0
    """Of one call."""
    patience_s: PositiveFloat = 600.0
    """Of one action over all its calls and waits, from its first call; then it stays unjudged."""
    retries: NonNegativeInt = 8
    """Further attempts after a failure that may pass."""


class Gate:
    """The one gate for all calls of one process. Waiting for it costs an action none of its patience.

    Processes of one run share what is allowed: each takes an equal part (`share`), before its first call.
    """

    def __init__(self, limits: Limits, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._limits, self._clock, self._sleep = limits, clock, sleep
        self._next_start = 0.0
        self._interval = 0.0
        """Seconds between two starts, learnt from refusals."""
        self._paused_until = 0.0
        self._good: deque[float] = deque(maxlen=1000)
        """When calls were let through."""
        self.share(1)

    def share(self, processes: int) -> None:
        """Take this process's part of the run's allowance.

        Raises:
            ConfigError: some processes would get no call at all.
        """
        concurrent = self._limits.concurrent
        if concurrent < processes:
            raise ConfigError(
                f"judge.limits.concurrent={concurrent} leaves some of the {processes} processes without a call; "
                f"set at least {processes}"
            )
        rates = self._limits.requests_per_minute, self._limits.tokens_per_minute
        self._slots = asyncio.Semaphore(concurrent // processes)
        self._requests, self._tokens = (
            Bucket(rate / processes, self._clock, self._sleep) if rate else None for rate in rates
        )

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Hold one of the slots, entered when the rates allow a request of about `tokens`."""
        async with self._slots:
            if self._requests:
                await self._requests.take(1)
            if self._tokens:
                await self._tokens.take(tokens)
            await self._turn()
            yield

    async def _turn(self) -> None:
        """Starts are an interval apart, so that whoever waited for the end of a pause does not start at once with all
        others; a pause that was called meanwhile is waited for, too."""
        while True:
            start = max(self._clock(), self._next_start)
            self._next_start = start + self._interval
            if (wait := start - self._clock()) <= 0:
                return
            paused_until = self._paused_until
            await self._sleep(wait)
            if self._paused_until == paused_until:
                return

    def used(self, estimated: int, actual: int) -> None:
        """Tell the true number of tokens of a request that was let in as `estimated`."""
        if self._tokens:
            self._tokens.correct(actual - estimated)

    def succeeded(self) -> None:
        self._good.append(self._clock())
        self._interval *= SPEED_UP

    def refused(self, seconds: float, began: float) -> None:
        """The endpoint asked (429) a call of `began` to leave it alone for `seconds`.

        What it let through just before is its rate. Calls that were under way when the pause was called teach nothing.
        """
        now = self._clock()
        if began < self._paused_until:
            return
        recent = [at for at in self._good if at > now - WINDOW_SECONDS]
        learnt = (now - min(recent) + seconds) / len(recent) if recent else 2 * self._interval or seconds
        self._interval = min(max(learnt, self._interval), seconds)
        self._paused_until = self._next_start = now + seconds
        self._good.clear()


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
