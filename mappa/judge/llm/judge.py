"""Any OpenAI-compatible model as the judge: every action is scored once, paid once, or left unjudged.

The way of one action: `prompt` writes the messages; `ledger` is asked whether exactly this was judged before; `calls`
asks the endpoint through `client`, as often as that can help; `parse` reads the score, once more after a correction, or
there is none. Whatever goes wrong ends in a `Verdict` without a score, except what no patience can mend (wrong key, no
credit, a ledger that cannot be written): that is kept in `fatal`, and whoever runs the judge stops the run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from enum import StrEnum
from typing import Literal

from mappa.errors import ConfigError, JudgeError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.judge.llm.calls import Ask, Caller, NoReply
from mappa.judge.llm.client import CallError, ChatMessages, Client, Key, Request
from mappa.judge.llm.ledger import Books, Ledger, Outcome
from mappa.judge.llm.limits import Limits
from mappa.judge.llm.money import Money, Prices, forecast
from mappa.judge.llm.parse import Reading
from mappa.judge.llm.prompt import Prompt, code_of
from mappa.ranks import world
from mappa.types import Verdict

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """What the ledger is for."""

    LIVE = "live"
    """Verdicts are never paid twice; a request that got none is asked again when it comes up again."""
    RECORD = "record"
    """As live, but the first outcome of a request is final, verdict or none: a replay repeats this run exactly."""
    REPLAY = "replay"
    """Recorded outcomes only, no network; a request that was not recorded gets no verdict."""


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
        self._request, self._limits, self._money = request or Request(), limits or Limits(), money or Money()
        self._model, self._prompt, self._sees_ground_truth = model, prompt, sees_ground_truth
        self._key = Key(api_key_env)
        client = Client(base_url, self._key, model, self._request, self._limits.timeout_s)
        prices = self._money.prices(model, base_url)
        if self._money.budget is not None and not (prices and prices.tokens_in and prices.tokens_out):
            raise ConfigError(
                f"judge.money.budget needs prices, and {model} at {base_url} is on no list: set judge.money.price_in "
                "and judge.money.price_out (dollars per million tokens)"
            )
        self._name, self._prices = client.name, prices
        self._books = Books(ledger, run)
        self._caller = Caller(
            model,
            client,
            self._key,
            self._books,
            self._request,
            self._limits,
            prices or Prices(),
            self._money.budget,
        )
        asked = vars(self._request) | {"structured": not self._request.asks_for("false"), "samples": None}
        settings = [model, base_url, prompt.id, asked, sees_ground_truth]
        self._request_id = f"llm:{model}:{_digest(settings)[:12]}"
        samples = self._request.samples
        self.id = self._request_id if samples == 1 else f"{self._request_id}:x{samples}"
        self._running: dict[str, asyncio.Task[tuple[Outcome, bool]]] = {}
        self._counts = {"cached": 0, "failed": 0, "missing": 0}
        self._secret: bytes | None = None

    @property
    def fatal(self) -> str | None:
        """Why the judge cannot be used any more; None as long as it can."""
        return self._caller.fatal

    @property
    def budget_spent(self) -> bool:
        """Whether an action was left unjudged for want of money."""
        return self._caller.budget_spent

    async def start(self) -> None:
        """Open the ledger, tell what a verdict costs, and make one cheap call.

        Raises:
            JudgeError: no key, key or model refused, no credit, no recording to replay, ledger unusable.
        """
        self._caller.gate.share(world()[1])
        if self.mode is Mode.REPLAY:
            if not self._books.path.is_file():
                raise JudgeError(f"judge.mode=replay: there is no recording {self._books.path}")
            return
        if not self._key:
            raise JudgeError(f"the environment variable {self._key.variable} (judge.api_key_env) is empty: export it")
        log.log(*await self._forecast(None))
        try:
            await self._caller.trial()
        except CallError as error:
            if error.suspect or not error.retriable:
                self._caller.fatal = str(error)
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
            self._caller.fatal = self.fatal or str(error)

    async def close(self) -> None:
        """Give up what is under way (paid replies are in the ledger already) and release everything."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._caller.close()
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
            self._caller.fatal = str(error)
            return Outcome(None, self.fatal), False

    async def _recorded(self, key: str) -> Outcome | None:
        """The outcome in the ledger; one without a score counts only where recordings are final."""
        return await self._books.do(Ledger.find, key, self.mode is not Mode.LIVE)

    async def _asked(self, ask: Ask, messages: ChatMessages) -> tuple[Outcome, bool]:
        """Ask, and if the reply names no score, ask once more; also whether another process was asked the same."""
        reading, said = Reading(None), messages
        try:
            for purpose in ("score", "correct"):
                found = await self._caller.call(ask, purpose, said)
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

    async def _forecast(self, actions: int | None) -> tuple[int, str]:
        """What the run may cost, as a log level and a line."""
        totals = await self._books.do(Ledger.totals)
        expected = self._money.expected_tokens_in, self._money.expected_tokens_out
        tokens = await self._books.do(Ledger.mean_tokens, self._model) or expected
        each = None if self._prices is None else self._prices.cost(*tokens) * self._request.samples
        spent = totals["cost"] + totals["held"]
        line, too_little = forecast(self._name, tokens, each, spent, actions, self._money.budget)
        return (logging.WARNING if too_little else logging.INFO), line

    def _missing(self, key: str, action: str) -> str:
        self._counts["missing"] += 1
        log.warning("replay: action %s (request %s) is not in the recording %s", action, key[:12], self._books.path)
        return f"not in the recording (request {key[:12]})"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
