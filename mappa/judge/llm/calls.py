"""Paid calls: each waits at the gate, is entered in the ledger if the budget allows, and made again if that can help.

Calls under way are claims on their requests, renewed for as long as there are any. A refusal that may mean that no call
will ever work is tried again without any agent's text before it is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mappa.errors import JudgeError
from mappa.judge.llm.client import TRIAL, CallError, ChatMessages, Client, Key, Reply, Request
from mappa.judge.llm.ledger import LEASE_SECONDS, Books, Ended, Grant, Ledger, Outcome
from mappa.judge.llm.limits import Breaker, Gate, Limits, backoff
from mappa.judge.llm.money import Prices
from mappa.judge.llm.parse import Reading, expected_score, read_score

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class NoReply(Exception):
    """The action stays unjudged; the message says why."""


@dataclass
class Ask:
    """One request on its way, and what it has used up so far."""

    key: str
    action: str
    code: str
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """In calls; waiting at the gate is not counted."""
    deadline: float | None = None
    """Where patience ends; set when the gate is first passed, so that a long queue is no failure."""


class Caller:
    """All calls of one judge in one process."""

    def __init__(
        self,
        model: str,
        client: Client,
        key: Key,
        books: Books,
        request: Request,
        limits: Limits,
        prices: Prices,
        budget: float | None,
    ) -> None:
        """`prices`: zero where they are not known."""
        self.fatal: str | None = None
        """Why no further call will ever be made."""
        self.budget_spent = False
        """A call was refused for want of money."""
        self.gate = Gate(limits)
        self._model, self._client, self._key, self._books = model, client, key, books
        self._request, self._limits, self._prices, self._budget = request, limits, prices, budget
        self._breaker = Breaker(limits.patience_s, retry_s=limits.timeout_s)
        self._dice = random.Random()
        self._under_way = 0
        self._heart: asyncio.Task[None] | None = None
        self._trying = asyncio.Lock()
        self._worked_at = -1.0
        """When the last trial call that worked was begun."""
        self._waiting_said: set[str] = set()

    async def close(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await self._client.close()

    async def call(self, ask: Ask, purpose: str, messages: ChatMessages) -> tuple[Reply, Reading] | Outcome:
        """A completion, at the end of whatever it takes, and the score in it; or what another process was told.

        Raises:
            NoReply: patience, retries or budget ran out, or the judge cannot be used.
        """
        failures, asked_since, request = 0, None, self._request
        size = estimated_tokens(messages)
        hold = self._prices.cost(size, request.max_tokens)
        while True:
            wait = POLL_SECONDS
            async with self.gate.slot(size + request.max_tokens):
                self._refuse_if_hopeless()
                left = self._time_left(ask)
                arguments = (ask.key, purpose, ask.action, self._model, hold, self._budget)
                grant, call = await self._books.do(Ledger.begin, *arguments)
                if grant is Grant.YES:
                    dialect = self._client.dialect
                    try:
                        return await self._once(call, messages, left, ask)
                    except CallError as error:
                        failure = error
                        if error.suspect:  # before this slot is anybody else's
                            await self._try_again(time.monotonic())
            if grant is Grant.NO:
                raise self._out_of_money()
            if grant is Grant.ASKED:
                asked_since = asked_since or time.monotonic()
                self._say_waiting(call)
                ask.deadline = None  # it is the other's patience that runs
                if time.monotonic() - asked_since > self._limits.patience_s:
                    raise NoReply(f"process {call} is asking the same and did not finish")
            elif grant is Grant.YES:
                again = failure.suspect and self._client.dialect != dialect
                failures += not again
                wait = 0.0 if again else self._wait_after(failure, failures, ask)
            if grant in (Grant.ASKED, Grant.KNOWN):
                known = await self._books.do(Ledger.find, ask.key)
                if known is not None:
                    return known
            await asyncio.sleep(wait)

    async def _once(self, call: int, messages: ChatMessages, timeout_s: float, ask: Ask) -> tuple[Reply, Reading]:
        """Make the call that was entered as `call`, and enter how it ended with what it said."""
        began = time.monotonic()
        ask.calls += 1
        try:
            with self._claiming():
                reply = await self._client.ask(messages, timeout_s)
        except CallError as error:
            ask.seconds += time.monotonic() - began
            (self._breaker.failed if error.retriable else self._breaker.succeeded)()
            if error.status == "http_429" and (error.retry_after or 0.0) <= self._limits.patience_s:
                self.gate.refused(error.retry_after or 1.0, began)
            await self._finish_failed(call, error, began)
            raise
        except asyncio.CancelledError:
            self._books.post(Ledger.finish, call, Ended("cancelled", time.monotonic() - began))
            raise
        self._breaker.succeeded()
        self.gate.succeeded()
        seconds, (tokens_in, tokens_out) = time.monotonic() - began, reply.usage or (0, 0)
        cost = self._prices.cost(tokens_in, tokens_out)
        ask.seconds += seconds
        ask.tokens_in += tokens_in
        ask.tokens_out += tokens_out
        ask.cost += cost
        if reply.usage:
            self.gate.used(estimated_tokens(messages) + self._request.max_tokens, tokens_in + tokens_out)
        reading = _read(reply, ask.code)
        said = {"reason": self._key.scrub(reading.reason), "raw": self._key.scrub(reply.text or reply.refusal)}
        await self._books.do(Ledger.finish, call, Ended("ok", seconds, reply.usage, cost, True, reading.score, **said))
        return reply, reading

    async def _finish_failed(self, call: int, error: CallError, began: float) -> None:
        said = {"reason": self._key.scrub(error.message), "raw": self._key.scrub(error.raw)}
        ended = Ended(error.status, time.monotonic() - began, billed=error.billed, **said)
        await self._books.do(Ledger.finish, call, ended)

    async def trial(self) -> None:
        """One call without any agent's text, made again only in a dialect it just learnt.

        Raises:
            CallError: there was no completion.
            NoReply: the budget is spent already.
        """
        hold = self._prices.cost(estimated_tokens(TRIAL), self._request.max_tokens)
        while True:
            arguments = ("", "trial", "", self._model, hold, self._budget)
            grant, call = await self._books.do(Ledger.begin, *arguments)
            if grant is not Grant.YES:
                raise self._out_of_money()
            began, dialect = time.monotonic(), self._client.dialect
            try:
                reply = await self._client.ask(TRIAL, trial=True)
            except CallError as error:
                await self._finish_failed(call, error, began)
                if self._client.dialect == dialect:
                    raise
            else:
                cost = self._prices.cost(*(reply.usage or (0, 0)))
                await self._books.do(Ledger.finish, call, Ended("ok", time.monotonic() - began, reply.usage, cost))
                self._worked_at = began
                return

    async def _try_again(self, since: float) -> None:
        """After a refusal that came at `since`: if a trial call is refused as well, no call ever will work."""
        async with self._trying:
            if self.fatal is None and self._worked_at < since:
                try:
                    await self.trial()
                except CallError as error:
                    self.fatal = str(error) if error.suspect else None

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[None]:
        """Renew the claims of this process for as long as there are any."""

        async def renewing() -> None:
            while self._under_way:
                await asyncio.sleep(LEASE_SECONDS / 3)
                with contextlib.suppress(JudgeError):  # whoever writes next says so
                    await self._books.do(Ledger.renew)

        self._under_way += 1
        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(renewing())
        try:
            yield
        finally:
            self._under_way -= 1

    def _say_waiting(self, owner: str) -> None:
        if owner not in self._waiting_said:
            self._waiting_said.add(owner)
            host, pid, _ = owner.rsplit(":", 2)
            log.warning(
                "judge: process %s on %s is asking the same; its verdicts are waited for while it lives, at most "
                "%g s each (ledger %s)",
                pid,
                host,
                self._limits.patience_s,
                self._books.path,
            )

    def _time_left(self, ask: Ask) -> float:
        now = time.monotonic()
        if ask.deadline is None:
            ask.deadline = now + self._limits.patience_s
        if ask.deadline <= now:
            raise NoReply(f"the judge gave no reply within {self._limits.patience_s:g} s")
        return ask.deadline - now

    def _wait_after(self, error: CallError, failures: int, ask: Ask) -> float:
        """Seconds until the next attempt.

        Raises:
            NoReply: there is none.
        """
        patience = self._limits.patience_s
        if not error.retriable:
            raise NoReply(str(error)) from None
        if failures > self._limits.retries:
            raise NoReply(f"{error}; given up after {failures} attempts") from None
        wait = backoff(failures - 1, error.retry_after, self._dice)
        if time.monotonic() + wait > (ask.deadline or 0.0):
            raise NoReply(f"{error}; given up after {failures} attempts in {patience:g} s of patience") from None
        return wait

    def _refuse_if_hopeless(self) -> None:
        if self.fatal is not None:
            raise NoReply(self.fatal)
        if not self._breaker.allows():
            raise NoReply(f"the judge has been down for more than {self._limits.patience_s:g} s")

    def _out_of_money(self) -> NoReply:
        self.budget_spent = True
        return NoReply(f"the judge's budget of ${self._budget:g} is spent")


def _read(reply: Reply, code: str) -> Reading:
    """The score of a reply, by its distribution where there is one."""
    if reply.refusal:
        return Reading(None, f"the judge refused: {reply.refusal}")
    reading = read_score(reply.text, code, reply.cut_off)
    if reading.score is None or not reply.tokens or reading.span is None:
        return reading
    mean = expected_score(reply.text, reply.tokens, reading.span)
    return reading if mean is None else replace(reading, score=mean)


def estimated_tokens(messages: ChatMessages) -> int:
    """A generous guess: three bytes a token, and some for each message's frame."""
    return sum(16 + len(message["content"].encode()) // 3 for message in messages)
