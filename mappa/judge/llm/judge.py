"""Any OpenAI-compatible model as the judge: every action is scored once, paid once, or left unjudged.

The way of one action: `prompt` writes the messages; the ledger is asked whether exactly this was judged before; a call
waits at the gate of `limits`, is entered in the ledger if the budget allows, and made by `client`, again where that can
help; `parse` reads the score, once more after a correction, or there is none. Whatever goes wrong ends in a `Verdict`
without a score, except what no patience can mend (wrong key, no credit, a ledger that cannot be written): that is kept
in `fatal`, and whoever runs the judge stops the run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from mappa.errors import ConfigError, JudgeError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.judge.llm.client import TRIAL, CallError, ChatMessages, Client, Key, Reply, Request
from mappa.judge.llm.ledger import LEASE_SECONDS, Books, Ended, Grant, Ledger, Outcome
from mappa.judge.llm.limits import Breaker, Gate, Limits, backoff
from mappa.judge.llm.money import Money, Prices, forecast
from mappa.judge.llm.parse import Reading, expected_score, read_score
from mappa.judge.llm.prompt import Prompt, code_of
from mappa.ranks import world
from mappa.types import Verdict

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class Mode(StrEnum):
    """What the ledger is for."""

    LIVE = "live"
    """Verdicts are never paid twice; a request that got none is asked again when it comes up again."""
    RECORD = "record"
    """As live, but the first outcome of a request is final, verdict or none: a replay repeats this run exactly."""
    REPLAY = "replay"
    """Recorded outcomes only, no network; a request that was not recorded gets no verdict."""


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


class LLMJudge(BaseJudge):
    """See the module. One instance per process and event loop; processes of one machine may share the ledger."""

    def __init__(
        self,
        model: str,
        prompt: Prompt,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str | None = "OPENAI_API_KEY",
        when: Literal["action", "episode"] = "action",
        sees_ground_truth: bool = False,
        request: Request | None = None,
        limits: Limits | None = None,
        money: Money | None = None,
        ledger: str = "outputs/judge.sqlite",
        run: str = "",
        mode: Literal["live", "record", "replay"] = "live",
    ) -> None:
        """Makes no connection and opens no file.

        Args:
            model: as the endpoint calls it.
            prompt: templates and rubrics of the team.
            base_url: up to and including `/v1` (or what the endpoint has instead).
            api_key_env: the environment variable that holds the key; null = the endpoint asks for none.
            when: `action` or `episode`.
            sees_ground_truth: show the judge the reference answer, and with `when=episode` the grade.
            request: what is asked of the endpoint.
            limits: how hard it may be asked.
            money: prices and budget.
            ledger: SQLite file, shared by runs.
            run: whose budget the calls are on.
            mode: live | record | replay.
        """
        self.when, self.mode = When(when), Mode(mode)
        self.fatal: str | None = None
        self.budget_spent = False
        """A call was refused for want of money."""
        self._request, self._limits, self._money = request or Request(), limits or Limits(), money or Money()
        self._model, self._prompt, self._sees_ground_truth = model, prompt, sees_ground_truth
        self._key = Key(api_key_env)
        self._client = Client(base_url, self._key, model, self._request, self._limits.timeout_s)
        prices = self._money.prices(model, base_url)
        if self._money.budget is not None and not (prices and prices.tokens_in and prices.tokens_out):
            raise ConfigError(
                f"judge.money.budget needs prices, and {model} at {base_url} is on no list: set judge.money.price_in "
                "and judge.money.price_out (dollars per million tokens)"
            )
        self._priced, self._prices = prices is not None, prices or Prices()
        self._books = Books(ledger, run)
        self._gate = Gate(self._limits)
        self._breaker = Breaker(self._limits.patience_s, retry_s=self._limits.timeout_s)
        asked = vars(self._request) | {"structured": not self._request.asks_for("false"), "samples": None}
        settings = [model, base_url, prompt.id, asked, sees_ground_truth]
        self._request_id = f"llm:{model}:{_digest(settings)[:12]}"
        samples = self._request.samples
        self.id = self._request_id if samples == 1 else f"{self._request_id}:x{samples}"
        self._running: dict[str, asyncio.Task[tuple[Outcome, bool]]] = {}
        self._counts = {"cached": 0, "failed": 0, "missing": 0}
        self._dice = random.Random()
        self._secret: bytes | None = None
        self._heart: asyncio.Task[None] | None = None
        self._trying = asyncio.Lock()
        self._worked_at = -1.0
        """When the last trial call that worked was begun."""
        self._waiting_said: set[str] = set()

    async def start(self) -> None:
        """Open the ledger, tell what a verdict costs, and make one cheap call.

        Raises:
            JudgeError: no key, key or model refused, no credit, no recording to replay, ledger unusable.
        """
        self._gate.share(world()[1])
        if self.mode is Mode.REPLAY:
            if not self._books.path.is_file():
                raise JudgeError(f"judge.mode=replay: there is no recording {self._books.path}")
            return
        if not self._key:
            raise JudgeError(f"the environment variable {self._key.variable} (judge.api_key_env) is empty: export it")
        log.log(*await self._forecast(None))
        try:
            await self._trial()
        except CallError as error:
            if error.suspect or not error.retriable:
                self.fatal = str(error)
                raise JudgeError(f"the judge cannot be used: {error}") from None
            log.warning("the judge does not answer yet: %s", error)
        except NoReply as stop:
            log.warning("%s: all further actions stay unjudged", stop)

    async def announce(self, actions: int) -> None:
        """Say what about `actions` scores may cost."""
        if self.mode is not Mode.REPLAY:
            log.log(*await self._forecast(actions))

    async def score(self, evidence: Evidence) -> Verdict:
        """The judge's word on one action; without a score if there is none to be had."""
        plain = self._prompt.messages(evidence, self._sees_ground_truth)
        asked = (self._outcome(evidence, plain, sample) for sample in range(self._request.samples))
        verdict = self._combined(await asyncio.gather(*asked), _digest(plain)[:16])
        self._counts["cached"] += verdict.cached
        self._counts["failed"] += verdict.score is None
        return verdict

    async def totals(self) -> dict[str, float]:
        """Sums over the ledger's calls of this run, and counts of this process (cached, failed, missing)."""
        known: dict[str, float] = {}
        if self.mode is not Mode.REPLAY or self._books.path.is_file():
            with contextlib.suppress(JudgeError):  # said elsewhere, and it stops the run
                known = await self._books.do(Ledger.totals)
        return known | self._counts

    async def flush(self) -> None:
        """Force every verdict through to the disk: before something is trained on it."""
        try:
            await self._books.do(Ledger.sync)
        except JudgeError as error:
            self.fatal = self.fatal or str(error)

    async def close(self) -> None:
        """Give up what is under way (paid replies are in the ledger already) and release everything."""
        tasks = [*self._running.values(), *([self._heart] if self._heart else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._heart = None
        await self._client.close()
        try:
            await self._books.close()
        except JudgeError as error:
            log.warning("%s", error)

    # ------------------------------------------------------------------ one request
    async def _outcome(self, evidence: Evidence, plain: ChatMessages, sample: int) -> tuple[Outcome, bool]:
        """The outcome of one request, and whether it was had for nothing. Who asks the same at once waits along."""
        key = _digest([self._request_id, plain, sample])
        if key in self._running:
            outcome, _ = await asyncio.shield(self._running[key])
            return outcome, True
        task = asyncio.create_task(self._decided(key, evidence, plain))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _decided(self, key: str, evidence: Evidence, plain: ChatMessages) -> tuple[Outcome, bool]:
        """From the ledger, or from the judge and then written to it."""
        try:
            known = await self._recorded(key)
            if known is not None:
                return known, True
            if self.mode is Mode.REPLAY:
                return Outcome(None, self._missing(key, evidence.action.id)), True
            if self._secret is None:
                self._secret = await self._books.do(Ledger.secret)
            ask = Ask(key, evidence.action.id, code_of(self._secret, plain))
            messages = self._prompt.messages(evidence, self._sees_ground_truth, ask.code)
            outcome, cached = await self._asked(ask, messages)
            if outcome.score is None and self.mode is Mode.RECORD and self.fatal is None:
                await self._books.do(Ledger.conclude, key, ask.action, self._model, outcome.reason)
            return outcome, cached
        except JudgeError as error:
            self.fatal = str(error)
            return Outcome(None, self.fatal), False

    async def _recorded(self, key: str) -> Outcome | None:
        """The outcome in the ledger; one without a score counts only where recordings are final."""
        return await self._books.do(Ledger.find, key, self.mode is not Mode.LIVE)

    async def _asked(self, ask: Ask, messages: ChatMessages) -> tuple[Outcome, bool]:
        """Ask, and if the reply names no score, ask once more; also whether another process was asked the same."""
        reading, said = Reading(None), messages
        try:
            for purpose in ("score", "correct"):
                found = await self._call(ask, purpose, said)
                if isinstance(found, Outcome):
                    return found, True
                reply, reading = found
                if reading.score is not None:
                    break
                said = self._prompt.corrected(messages, reply.text, ask.code)
        except NoReply as stop:
            reading = Reading(None, str(stop))
        reason = self._key.scrub(reading.reason)
        return Outcome(reading.score, reason, ask.calls, ask.tokens_in, ask.tokens_out, ask.cost, ask.seconds), False

    def _combined(self, outcomes: list[tuple[Outcome, bool]], prompt_hash: str) -> Verdict:
        """Mean over the samples that can be read. Rules on top of the model's word belong after this, not before."""
        entries = [outcome for outcome, _ in outcomes]
        paid = [outcome for outcome, cached in outcomes if not cached]
        read = [outcome for outcome in entries if outcome.score is not None]
        return Verdict(
            score=sum(outcome.score for outcome in read) / len(read) if read else None,
            reason=(read or entries)[0].reason,
            judge=self.id,
            prompt_hash=prompt_hash,
            tokens_in=sum(outcome.tokens_in for outcome in paid),
            tokens_out=sum(outcome.tokens_out for outcome in paid),
            cost=sum(outcome.cost for outcome in paid),
            seconds=max((outcome.seconds for outcome in paid), default=0.0),
            cached=not paid,
        )

    # ------------------------------------------------------------------ paid calls
    async def _call(self, ask: Ask, purpose: str, messages: ChatMessages) -> tuple[Reply, Reading] | Outcome:
        """A completion, at the end of whatever it takes, and the score in it; or what another process was told.

        Raises:
            NoReply: patience, retries or budget ran out, or the judge cannot be used.
        """
        failures, asked_since, request = 0, None, self._request
        size = _estimated_tokens(messages)
        hold = self._prices.cost(size, request.max_tokens)
        while True:
            wait = POLL_SECONDS
            async with self._gate.slot(size + request.max_tokens):
                self._refuse_if_hopeless()
                left = self._time_left(ask)
                arguments = (ask.key, purpose, ask.action, self._model, hold, self._money.budget)
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
            if grant in (Grant.ASKED, Grant.KNOWN) and (known := await self._recorded(ask.key)) is not None:
                return known
            await asyncio.sleep(wait)

    async def _once(self, call: int, messages: ChatMessages, timeout_s: float, ask: Ask) -> tuple[Reply, Reading]:
        """Make the call that was entered as `call`, and enter how it ended with what it said."""
        began = time.monotonic()
        self._beat()
        ask.calls += 1
        try:
            reply = await self._client.ask(messages, timeout_s)
        except CallError as error:
            ask.seconds += time.monotonic() - began
            (self._breaker.failed if error.retriable else self._breaker.succeeded)()
            if error.status == "http_429" and (error.retry_after or 0.0) <= self._limits.patience_s:
                self._gate.refused(error.retry_after or 1.0)
            await self._finish_failed(call, error, began)
            raise
        except asyncio.CancelledError:
            self._books.post(Ledger.finish, call, Ended("cancelled", time.monotonic() - began))
            raise
        self._breaker.succeeded()
        self._gate.succeeded()
        seconds, (tokens_in, tokens_out) = time.monotonic() - began, reply.usage or (0, 0)
        cost = self._prices.cost(tokens_in, tokens_out)
        ask.seconds += seconds
        ask.tokens_in += tokens_in
        ask.tokens_out += tokens_out
        ask.cost += cost
        if reply.usage:
            self._gate.used(_estimated_tokens(messages) + self._request.max_tokens, tokens_in + tokens_out)
        reading = _read(reply, ask.code)
        said = {"reason": self._key.scrub(reading.reason), "raw": self._key.scrub(reply.text or reply.refusal)}
        await self._books.do(Ledger.finish, call, Ended("ok", seconds, reply.usage, cost, True, reading.score, **said))
        return reply, reading

    async def _finish_failed(self, call: int, error: CallError, began: float) -> None:
        said = {"reason": self._key.scrub(error.message), "raw": self._key.scrub(error.raw)}
        ended = Ended(error.status, time.monotonic() - began, billed=error.billed, **said)
        await self._books.do(Ledger.finish, call, ended)

    async def _trial(self) -> None:
        """One call without any agent's text, made again only in a dialect it just learnt.

        Raises:
            CallError: there was no completion.
            NoReply: the budget is spent already.
        """
        hold = self._prices.cost(_estimated_tokens(TRIAL), self._request.max_tokens)
        while True:
            arguments = ("", "trial", "", self._model, hold, self._money.budget)
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
                    await self._trial()
                except CallError as error:
                    self.fatal = str(error) if error.suspect else None

    def _beat(self) -> None:
        """Renew the claims of this process for as long as there are any."""

        async def renewing() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 3)
                if not self._running:
                    return
                with contextlib.suppress(JudgeError):  # whoever writes next says so
                    await self._books.do(Ledger.renew)

        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(renewing())

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
        return NoReply(f"the judge's budget of ${self._money.budget:g} is spent")

    async def _forecast(self, actions: int | None) -> tuple[int, str]:
        """What the run may cost, as a log level and a line."""
        totals = await self._books.do(Ledger.totals)
        expected = self._money.expected_tokens_in, self._money.expected_tokens_out
        tokens = await self._books.do(Ledger.mean_tokens, self._model) or expected
        each = self._prices.cost(*tokens) * self._request.samples if self._priced else None
        spent = totals["cost"] + totals["held"]
        line, too_little = forecast(self._client.name, tokens, each, spent, actions, self._money.budget)
        return (logging.WARNING if too_little else logging.INFO), line

    def _missing(self, key: str, action: str) -> str:
        self._counts["missing"] += 1
        log.warning("replay: action %s (request %s) is not in the recording %s", action, key[:12], self._books.path)
        return f"not in the recording (request {key[:12]})"


def _read(reply: Reply, code: str) -> Reading:
    """The score of a reply, by its distribution where there is one."""
    if reply.refusal:
        return Reading(None, f"the judge refused: {reply.refusal}")
    reading = read_score(reply.text, code, reply.cut_off)
    if reading.score is None or not reply.tokens or reading.span is None:
        return reading
    mean = expected_score(reply.text, reply.tokens, reading.span)
    return reading if mean is None else replace(reading, score=mean)


def _estimated_tokens(messages: ChatMessages) -> int:
    """A generous guess: three bytes a token, and some for each message's frame."""
    return sum(16 + len(message["content"].encode()) // 3 for message in messages)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
