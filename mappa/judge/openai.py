"""Any OpenAI-compatible model as the judge: every action is scored once, paid once, or left unjudged.

The way of one action: `prompt` writes the messages; the ledger is asked whether exactly this was judged before;
`caller` makes the paid calls; `parse` reads the score, once more after a correction, or there is none. Whatever goes
wrong ends in a `Verdict` without a score, except what no patience can mend (wrong key, unknown model, a ledger that
cannot be written): that is kept in `fatal`, and whoever runs the judge stops the run with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from mappa.errors import ConfigError, JudgeError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.judge.books import Books
from mappa.judge.caller import Bill, Caller, NoReply, Prices
from mappa.judge.endpoint import Dialect, Endpoint
from mappa.judge.expected import expected_score
from mappa.judge.forecast import forecast
from mappa.judge.ledger import Entry, Ledger
from mappa.judge.limits import Breaker, Limits
from mappa.judge.parse import Reading, read_score
from mappa.judge.prompt import ChatMessages, Prompt
from mappa.judge.reply import CallError, Reply
from mappa.judge.secret import Secret
from mappa.ranks import world
from mappa.types import Verdict

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

log = logging.getLogger(__name__)

CLAIM_SECONDS = 3600.0
CLAIM_POLL_SECONDS = 0.2
TRIAL: ChatMessages = [{"role": "user", "content": 'Reply with {"reason": "ready", "process_score": 0} and no more.'}]


class Mode(StrEnum):
    """What the ledger is for."""

    LIVE = "live"
    """Verdicts are never paid twice; a request that got none is asked again when it comes up again."""
    RECORD = "record"
    """As live, but the first outcome of a request is final, verdict or none: a replay repeats this run exactly."""
    REPLAY = "replay"
    """Recorded outcomes only, no network; a request that was not recorded gets no verdict."""


class OpenAIJudge(BaseJudge):
    """See the module. One instance per process and event loop; processes of one machine may share the ledger."""

    def __init__(
        self,
        model: str,
        prompt: Prompt,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        when: Literal["action", "episode"] = "action",
        sees_ground_truth: bool = False,
        samples: PositiveInt = 1,
        use_logprobs: bool = False,
        structured: str | bool = "auto",
        temperature: NonNegativeFloat | None = 0.0,
        max_tokens: PositiveInt = 1024,
        extra_body: Mapping[str, Any] | None = None,
        max_concurrent: PositiveInt = 16,
        requests_per_minute: PositiveFloat | None = None,
        tokens_per_minute: PositiveFloat | None = None,
        timeout_s: PositiveFloat = 120.0,
        patience_s: PositiveFloat = 600.0,
        retries: NonNegativeInt = 8,
        price_in: NonNegativeFloat | None = None,
        price_out: NonNegativeFloat | None = None,
        budget: PositiveFloat | None = None,
        expected_actions: PositiveInt | None = None,
        expected_tokens_in: PositiveInt = 3000,
        expected_tokens_out: PositiveInt = 300,
        ledger: str = "judge.sqlite",
        mode: Literal["live", "record", "replay"] = "live",
    ) -> None:
        """Makes no connection and opens no file.

        Args:
            model: as the endpoint calls it.
            prompt: templates and rubrics of the team.
            base_url: up to and including `/v1` (or what the endpoint has instead).
            api_key: from the environment; never shown or stored.
            when: `action` or `episode`.
            sees_ground_truth: show the judge the reference answer, and with `when=episode` the grade.
            samples: replies per action, averaged over those that can be read; needs a temperature above 0.
            use_logprobs: score = mean of the score token's distribution where the endpoint returns it.
            structured: JSON schema output; `auto` tries and falls back to text, true insists, false never asks.
            temperature: null leaves it to the endpoint.
            max_tokens: longest reply, reasoning included.
            extra_body: added to each request as it is.
            max_concurrent: calls under way at once; the ranks of a run share it equally, as the next two.
            requests_per_minute: null = unlimited.
            tokens_per_minute: prompt and reply; null = unlimited.
            timeout_s: of one call.
            patience_s: of one action over all its calls and waits, counted from its first call.
            retries: further attempts after a failure that may pass.
            price_in: dollars per million prompt tokens; null = not known.
            price_out: dollars per million reply tokens.
            budget: dollars that the ledger's calls may cost in all, this run's and earlier ones'.
            expected_actions: for the forecast; null = not known.
            expected_tokens_in: for the forecast, until the ledger knows better.
            expected_tokens_out: likewise.
            ledger: SQLite file.
            mode: live | record | replay.
        """
        self.when = When(when)
        self.mode = Mode(mode)
        if samples < 1 or (samples > 1 and temperature == 0):
            raise ConfigError(
                "judge.samples must be 1 or more, and more than 1 needs judge.temperature above 0 or null"
            )
        if str(structured).lower() not in ("auto", "true", "false"):
            raise ConfigError(f"judge.structured must be auto, true or false, not '{structured}'")
        if budget is not None and not (price_in and price_out):
            raise ConfigError("judge.budget needs judge.price_in and judge.price_out (dollars per million tokens)")
        self.expected_actions = expected_actions
        self._prompt = prompt
        self._sees_ground_truth = sees_ground_truth
        self._samples = samples
        self._model = model
        self._prices = Prices(price_in or 0.0, price_out or 0.0)
        self._budget = budget
        self._expected = (float(expected_tokens_in), float(expected_tokens_out))
        self._secret = Secret(api_key)
        insist = str(structured).lower() == "true"
        dialect = Dialect(str(structured).lower() != "false", use_logprobs, temperature)
        self._endpoint = Endpoint(base_url, self._secret, model, dialect, insist, timeout_s, extra_body)
        self._books = Books(ledger)
        self._limits = Limits(max_concurrent, requests_per_minute, tokens_per_minute)
        breaker = Breaker(patience_s, retry_s=timeout_s)
        self._caller = Caller(
            self._endpoint,
            self._books,
            self._secret,
            self._limits,
            breaker,
            model,
            self._prices,
            budget,
            max_tokens,
            patience_s,
            retries,
        )
        settings = [model, base_url, prompt.id, vars(dialect), max_tokens, dict(extra_body or {}), sees_ground_truth]
        self._request_id = f"openai:{model}:{_digest(settings)[:12]}"
        self.id = self._request_id if samples == 1 else f"{self._request_id}:x{samples}"
        self._running: dict[str, asyncio.Task[tuple[Entry, bool]]] = {}
        self._counts = {"cached": 0, "failed": 0, "missing": 0}

    @property
    def fatal(self) -> str | None:
        """Why the judge cannot be used any more; None as long as it can."""
        return self._caller.fatal

    @property
    def budget_spent(self) -> bool:
        """Whether an action was left unjudged for want of money."""
        return self._caller.budget_spent

    async def start(self) -> None:
        """Open the ledger, tell what the run may cost, and make one cheap call.

        Raises:
            JudgeError: no key, key or model refused, no recording to replay, ledger unusable.
        """
        self._limits.share(world()[1])
        if self.mode is Mode.REPLAY:
            if not self._books.path.is_file():
                raise JudgeError(f"judge.mode=replay: there is no recording {self._books.path}")
            return
        if not self._secret:
            raise JudgeError("judge.api_key is empty: export the environment variable that it names")
        try:
            log.log(*await self._forecast())
            await self._caller.trial(TRIAL)
        except CallError as error:
            if not error.retriable:
                raise JudgeError(f"the judge cannot be used: {error}") from None
            log.warning("the judge does not answer yet: %s", error)
        except NoReply as stop:
            log.warning("%s: all further actions stay unjudged", stop)
        except sqlite3.Error as error:
            raise JudgeError(f"judge ledger {self._books.path}: {error}") from None

    async def announce(self, actions: int) -> None:
        """Say what about `actions` scores may cost; `expected_actions` knows better if it is set."""
        if self.mode is not Mode.REPLAY:
            self.expected_actions = self.expected_actions or actions
            log.log(*await self._forecast())

    async def score(self, evidence: Evidence) -> Verdict:
        """The judge's word on one action; without a score if there is none to be had."""
        messages = self._prompt.messages(evidence, self._sees_ground_truth)
        asked = (self._outcome(messages, sample, evidence.action.id) for sample in range(self._samples))
        verdict = self._combined(await asyncio.gather(*asked))
        self._counts["cached"] += verdict.cached
        self._counts["failed"] += verdict.score is None
        return verdict

    async def summary(self) -> dict[str, float]:
        """Sums over the ledger (calls, tokens, dollars) and over this process (cached, failed, missing)."""
        totals = await self._books.do(Ledger.totals)
        return vars(totals) | self._counts

    async def flush(self) -> None:
        """Force every verdict through to the disk: before something is trained on it."""
        await self._books.do(Ledger.sync)

    async def close(self) -> None:
        """Give up what is under way (paid replies are in the ledger already) and release everything."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._endpoint.close()
        await self._books.close()

    async def _outcome(self, messages: ChatMessages, sample: int, action: str) -> tuple[Entry, bool]:
        """The outcome of one request, and whether it was had for nothing. Who asks the same at once waits along."""
        key = _digest([self._request_id, messages, sample])
        if key in self._running:
            entry, _ = await asyncio.shield(self._running[key])
            return entry, True
        task = asyncio.create_task(self._decided(key, messages, action))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _decided(self, key: str, messages: ChatMessages, action: str) -> tuple[Entry, bool]:
        """From the ledger, or from the judge and then written to it."""
        unjudged = Entry(key, self._request_id, _digest(messages)[:16], self._model, action, None, "")
        try:
            known = await self._recorded(key)
            if known is not None:
                return known, True
            if self.mode is Mode.REPLAY:
                return replace(unjudged, reason=self._missing(key, action)), True
            await self._claimed(key)
            try:
                known = await self._recorded(key)
                if known is not None:
                    return known, True
                entry = await self._asked(unjudged, messages)
                if entry.score is not None or self.fatal is None:
                    await self._books.do(Ledger.record, entry)
                return entry, False
            finally:
                self._books.post(Ledger.release, key)
        except (sqlite3.Error, JudgeError) as error:
            self._caller.fatal = f"judge ledger {self._books.path} cannot be used: {error}"
            return replace(unjudged, reason=self._caller.fatal), False

    async def _claimed(self, key: str) -> None:
        """Return once no other process is asking the same."""
        while True:
            if await self._books.do(Ledger.claim, key, CLAIM_SECONDS):
                return
            await asyncio.sleep(CLAIM_POLL_SECONDS)

    async def _recorded(self, key: str) -> Entry | None:
        """The outcome in the ledger; one without a score counts only where recordings are final."""
        entry = await self._books.do(Ledger.find, key)
        return entry if entry and (entry.score is not None or self.mode is not Mode.LIVE) else None

    async def _asked(self, unjudged: Entry, messages: ChatMessages) -> Entry:
        """Ask, and if the reply names no score, ask once more."""
        bill, reading, reply = Bill(), Reading(None), None
        try:
            for purpose in ("score", "correct"):
                said = messages if reply is None else self._prompt.corrected(messages, reply.text)
                reply = await self._caller.call(unjudged.key, purpose, said, bill)
                reading = _read(reply)
                if reading.score is not None:
                    break
        except NoReply as stop:
            reading = Reading(None, str(stop))
        return replace(
            unjudged,
            score=reading.score,
            reason=self._secret.scrub(reading.reason),
            raw=self._secret.scrub(reply.text or reply.refusal) if reply else "",
            calls=bill.calls,
            tokens_in=bill.tokens_in,
            tokens_out=bill.tokens_out,
            cost=bill.cost,
            seconds=bill.seconds,
        )

    def _combined(self, outcomes: list[tuple[Entry, bool]]) -> Verdict:
        """Mean over the samples that can be read. Rules on top of the model's word belong after this, not before."""
        entries = [entry for entry, _ in outcomes]
        paid = [entry for entry, cached in outcomes if not cached]
        read = [entry for entry in entries if entry.score is not None]
        return Verdict(
            score=sum(entry.score for entry in read) / len(read) if read else None,
            reason=(read or entries)[0].reason,
            judge=self.id,
            prompt_hash=entries[0].prompt_hash,
            tokens_in=sum(entry.tokens_in for entry in paid),
            tokens_out=sum(entry.tokens_out for entry in paid),
            cost=sum(entry.cost for entry in paid),
            seconds=max((entry.seconds for entry in paid), default=0.0),
            cached=not paid,
        )

    async def _forecast(self) -> tuple[int, str]:
        """What the run may cost, as a log level and a line."""
        totals = await self._books.do(Ledger.totals)
        tokens = await self._books.do(Ledger.mean_tokens) or self._expected
        each = self._prices.cost(*tokens) * self._samples
        spent = totals.cost + totals.held
        line, too_little = forecast(self._endpoint.name, tokens, each, spent, self.expected_actions, self._budget)
        return (logging.WARNING if too_little else logging.INFO), line

    def _missing(self, key: str, action: str) -> str:
        self._counts["missing"] += 1
        log.warning("replay: action %s (request %s) is not in the recording %s", action, key[:12], self._books.path)
        return f"not in the recording (request {key[:12]})"


def _read(reply: Reply) -> Reading:
    """The score of a reply, by its distribution where there is one."""
    if reply.refusal:
        return Reading(None, f"the judge refused: {reply.refusal}")
    reading = read_score(reply.text, reply.cut_off)
    if reading.score is None or not reply.tokens:
        return reading
    mean = expected_score(reply.tokens, reading.number)
    return reading if mean is None else Reading(mean, reading.reason, reading.number)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
