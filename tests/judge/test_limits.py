"""Rates on a clock that only moves when somebody sleeps."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mappa.errors import ConfigError
from mappa.judge.llm.limits import Breaker, Bucket, Gate, Limits, backoff, parse_retry_after


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def most_in_a_minute(times: list[float], amounts: list[float]) -> float:
    return max(
        sum(amount for time, amount in zip(times, amounts, strict=True) if start <= time < start + 60)
        for start in times
    )


@pytest.mark.parametrize(("per_minute", "amount"), [(60, 1), (600, 1), (6_000, 900), (6_000, 1_500)])
async def test_a_bucket_keeps_its_rate(per_minute, amount):
    clock, times = Clock(), []
    bucket = Bucket(per_minute, clock, clock.sleep)
    for _ in range(400):
        await bucket.take(amount)
        times.append(clock.now)
    assert most_in_a_minute(times, [amount] * 400) <= per_minute * 1.1 + amount
    assert 400 * amount / (times[-1] - times[0]) * 60 >= per_minute * 0.99, "and does not waste it"


async def test_a_request_larger_than_the_burst_is_let_through_and_paid_for_by_the_next():
    clock = Clock()
    bucket = Bucket(600, clock, clock.sleep)
    await bucket.take(1_000)
    assert clock.now == 100.0
    await bucket.take(10)
    assert clock.now == pytest.approx(100.0 + (1_000 - 60 + 10) / 10)


async def test_true_sizes_are_settled_afterwards():
    clock = Clock()
    bucket = Bucket(600, clock, clock.sleep)
    await bucket.take(60)
    bucket.correct(60)
    await bucket.take(1)
    assert clock.now == pytest.approx(106.1)


def test_processes_together_call_no_more_often_than_one_may():
    Gate(Limits(concurrent=10)).share(8)
    with pytest.raises(ConfigError, match=r"^judge.limits.concurrent=4 leaves some of the 8 processes .* at least 8$"):
        Gate(Limits(concurrent=4)).share(8)


async def test_no_more_than_max_concurrent():
    gate, running, most = Gate(Limits(concurrent=3)), 0, 0

    async def one():
        nonlocal running, most
        async with gate.slot(1):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 3


async def test_a_pause_holds_everybody():
    clock = Clock()
    gate = Gate(Limits(4), clock=clock, sleep=clock.sleep)
    gate.refused(30, clock.now)
    async with gate.slot(1):
        assert clock.now == 130.0


async def test_what_was_refused_teaches_the_rate():
    """Ten a second are let through: the rest is refused, and then starts are a tenth of a second apart."""
    clock = Clock()
    gate = Gate(Limits(64), clock=clock, sleep=clock.sleep)
    for _ in range(10):
        gate.succeeded()
    gate.refused(1.0, clock.now)
    gate.refused(1.0, clock.now)
    starts = []
    for _ in range(5):
        async with gate.slot(1):
            starts.append(clock.now)
    assert starts == pytest.approx([101.0, 101.1, 101.2, 101.3, 101.4])


def test_the_breaker_opens_after_its_patience_and_tries_once_in_a_while():
    clock = Clock()
    breaker = Breaker(patience_s=60, retry_s=10, clock=clock)
    breaker.failed()
    clock.now += 59
    assert breaker.allows()
    breaker.failed()
    clock.now += 2
    assert breaker.allows(), "the first trial"
    assert not breaker.allows()
    clock.now += 10
    assert breaker.allows(), "the second trial"
    breaker.succeeded()
    assert breaker.allows()


def test_backoff_grows_and_honours_the_endpoint():
    dice = random.Random(0)
    waits = [backoff(attempt, None, dice) for attempt in range(12)]
    assert all(0.5 * min(60, 2**i) <= wait <= min(60, 2**i) for i, wait in enumerate(waits))
    assert 20.0 <= backoff(0, 20.0, dice) <= 20.1


@pytest.mark.parametrize(
    ("value", "milliseconds", "seconds"),
    [
        ("3", None, 3.0),
        ("0.5", None, 0.5),
        (None, "250", 0.25),
        (None, None, None),
        ("soon", None, None),
        ("-1", None, None),
    ],
)
def test_retry_after(value, milliseconds, seconds):
    assert parse_retry_after(value, milliseconds) == seconds


def test_retry_after_as_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < parse_retry_after(later) <= 100
