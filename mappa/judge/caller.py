"""Paid calls: each waits at the gate, asks the budget, is entered in the ledger, and is made again if that can help."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from mappa.judge.books import Books
from mappa.judge.endpoint import Endpoint
from mappa.judge.ledger import Grant, Ledger
from mappa.judge.limits import Breaker, Limits, backoff
from mappa.judge.prompt import ChatMessages
from mappa.judge.reply import CallError, Reply
from mappa.judge.secret import Secret

BUDGET_POLL_SECONDS = 0.1


class NoReply(Exception):
    """The action stays unjudged; the message says why."""


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens; zero where they are not known."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass
class Bill:
    """What one request has used up so far."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """In calls; waiting at the gate is not counted."""
    deadline: float | None = None
    """Where patience ends; set when the gate is first passed, so that a long queue is no failure."""


def estimated_tokens(messages: ChatMessages) -> int:
    """A generous guess: three bytes a token, and some for each message's frame."""
    return sum(16 + len(message["content"].encode()) // 3 for message in messages)


class Caller:
    """All calls of one judge in one process."""

    def __init__(
        self,
        endpoint: Endpoint,
        books: Books,
        secret: Secret,
        limits: Limits,
        breaker: Breaker,
        model: str,
        prices: Prices,
        budget: float | None,
        max_tokens: int,
        patience_s: float,
        retries: int,
    ) -> None:
        self.fatal: str | None = None
        """Why no further call will ever be made."""
        self.budget_spent = False
        """A call was refused for want of money."""
        self._endpoint = endpoint
        self._books = books
        self._secret = secret
        self._limits = limits
        self._breaker = breaker
        self._model = model
        self._prices = prices
        self._budget = budget
        self._max_tokens = max_tokens
        self._patience = patience_s
        self._retries = retries
        self._dice = random.Random()

    async def trial(self, messages: ChatMessages) -> None:
        """One call that shows whether the judge can be used, made again only in a dialect it just learnt.

        Raises:
            CallError: there was no completion.
            NoReply: the budget is spent already.
        """
        hold = self._prices.cost(estimated_tokens(messages), self._max_tokens)
        while True:
            try:
                grant, call = await self._books.do(Ledger.begin, "", "probe", self._model, hold, self._budget)
                if grant is not Grant.YES:
                    raise self._out_of_money()
                await self._once(call, messages, None, Bill(), trial=True)
                return
            except CallError as error:
                if not error.again:
                    raise

    async def call(self, key: str, purpose: str, messages: ChatMessages, bill: Bill) -> Reply:
        """A completion for `messages`, at the end of whatever it takes; what it used is added to `bill`.

        Raises:
            NoReply: patience, retries or budget ran out, or the judge cannot be used.
        """
        failures = 0
        size = estimated_tokens(messages)
        while True:
            self._refuse_if_hopeless()
            grant, wait = Grant.YES, 0.0
            async with self._limits.slot(size + self._max_tokens):
                self._refuse_if_hopeless()
                if not self._breaker.allows():
                    raise NoReply(f"the judge has been down for more than {self._patience:g} s")
                left = self._time_left(bill)
                hold = self._prices.cost(size, self._max_tokens)
                grant, call = await self._books.do(Ledger.begin, key, purpose, self._model, hold, self._budget)
                if grant is Grant.YES:
                    try:
                        return await self._once(call, messages, left, bill)
                    except CallError as error:
                        failures += not error.again
                        wait = self._wait_after(error, failures, bill)
            if grant is Grant.NO:
                raise self._out_of_money()
            await asyncio.sleep(BUDGET_POLL_SECONDS if grant is Grant.WAIT else wait)

    async def _once(
        self, call: int, messages: ChatMessages, timeout_s: float | None, bill: Bill, trial: bool = False
    ) -> Reply:
        """Make the call that was entered as `call`, and enter how it ended."""
        began = time.monotonic()
        bill.calls += 1
        try:
            reply = await self._endpoint.ask(messages, self._max_tokens, timeout_s, trial)
        except CallError as error:
            bill.seconds += time.monotonic() - began
            self.fatal = str(error) if error.fatal else self.fatal
            (self._breaker.failed if error.retriable else self._breaker.succeeded)()
            raw = self._secret.scrub(error.raw)
            seconds = time.monotonic() - began
            await self._books.do(Ledger.finish, call, error.status, seconds, raw=raw, billed=error.billed)
            raise
        except asyncio.CancelledError:
            self._books.post(Ledger.finish, call, "cancelled", time.monotonic() - began)
            raise
        seconds = time.monotonic() - began
        self._breaker.succeeded()
        tokens_in, tokens_out = reply.usage or (0, 0)
        cost = self._prices.cost(tokens_in, tokens_out)
        bill.seconds += seconds
        bill.tokens_in += tokens_in
        bill.tokens_out += tokens_out
        bill.cost += cost
        if reply.usage:
            self._limits.used(estimated_tokens(messages) + self._max_tokens, tokens_in + tokens_out)
        raw = self._secret.scrub(reply.text or reply.refusal)
        await self._books.do(Ledger.finish, call, "ok", seconds, reply.usage, cost, raw)
        return reply

    def _time_left(self, bill: Bill) -> float:
        now = time.monotonic()
        if bill.deadline is None:
            bill.deadline = now + self._patience
        if bill.deadline <= now:
            raise NoReply(f"the judge gave no reply within {self._patience:g} s")
        return bill.deadline - now

    def _wait_after(self, error: CallError, failures: int, bill: Bill) -> float:
        """Seconds until the next attempt.

        Raises:
            NoReply: there is none.
        """
        if error.again:
            return 0.0
        if not error.retriable:
            raise NoReply(str(error)) from None
        if failures > self._retries:
            raise NoReply(f"{error}; given up after {failures} attempts") from None
        wait = backoff(failures - 1, error.retry_after, self._dice)
        if time.monotonic() + wait > (bill.deadline or 0.0):
            raise NoReply(f"{error}; given up after {failures} attempts in {self._patience:g} s of patience") from None
        if error.retry_after is not None:
            self._limits.pause(error.retry_after)
        return wait

    def _refuse_if_hopeless(self) -> None:
        if self.fatal is not None:
            raise NoReply(self.fatal)

    def _out_of_money(self) -> NoReply:
        self.budget_spent = True
        return NoReply(f"the judge's budget of ${self._budget:g} is spent")
