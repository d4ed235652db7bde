"""What every rollout engine offers. Tokens in, tokens out: text never crosses this line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from mappa.types import StopReason

if TYPE_CHECKING:
    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters


@dataclass(frozen=True)
class Sampling:
    """How one completion is sampled."""

    max_tokens: int
    temperature: float = 1.0
    """Log-probabilities are reported under it; 0 = the likeliest token each time, and log-probabilities under 1."""
    top_p: float = 1.0
    seed: int = 0
    """The completion is a function of adapter, prompt and seed, whatever else is in the batch (up to rounding)."""


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]
    """Sampled tokens, the end-of-turn token included when `stop_reason` is STOP."""
    logprobs: tuple[float, ...]
    """Natural log, under the sampling temperature (1 where it is 0) and before any top-p cut."""
    stop_reason: StopReason
    version: int
    """Adapter version that sampled it."""


class Idle:
    """Seconds in which an engine had nothing to do, though it could have had."""

    def __init__(self) -> None:
        self._working, self._since, self._seconds = 0, 0.0, 0.0
        self._told = False

    def begin(self) -> None:
        """The clock runs from here whenever nothing is being worked on."""
        self._since, self._seconds, self._told = time.monotonic(), 0.0, False

    @contextmanager
    def working(self) -> Iterator[None]:
        """The clock stands still in the block; blocks may overlap."""
        if not self._working:
            self._seconds += time.monotonic() - self._since
        self._working, self._told = self._working + 1, True
        try:
            yield
        finally:
            self._working -= 1
            self._since = time.monotonic()

    def end(self) -> float | None:
        """Seconds since `begin` in which nothing was worked on; None of an engine that never says that it works."""
        return self._seconds + (0.0 if self._working else time.monotonic() - self._since) if self._told else None


class Engine(Protocol):
    """Life: `attach` -> (`sync` -> `wake` -> many `generate` -> `sleep`) per epoch -> `close`."""

    shares_weights: bool
    """True when it generates with the trainer's own modules: `sync` copies nothing."""
    takes_weights: bool
    """True when `sync` hands it the adapters' weights, so that it must speak with them."""
    context_length: int
    """Most tokens of prompt + completion."""
    idle: Idle

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        """Get to know the policy: called once, before the first rollout."""

    def playing(self, purpose: str, epoch: int) -> Engine:
        """Who plays the episodes of a rollout: itself, as a rule.

        Args:
            purpose: `train`, or the name of a validation set.
        """

    lockstep: bool
    """True when a batch waits for every requester of its group: see `BaseEngine.lane`."""

    def lane(self, group: int = 0) -> object:
        """Async context of one concurrent requester; see `BaseEngine.lane`."""

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion with `agent`'s adapter; for `types.BASE` with the frozen base, adapters off.

        Raises:
            EngineError: the prompt leaves no room for the completion, or the engine is down.
        """

    async def sync(self, version: int) -> None:
        """Serve the adapters' current weights under `version` from now on."""

    async def sleep(self) -> None:
        """Give memory back to the update."""

    async def wake(self) -> None: ...

    async def close(self) -> None: ...


class BaseEngine:
    """Defaults for engines that need no barrier between requesters."""

    shares_weights = False
    takes_weights = True
    lockstep = False

    @cached_property
    def idle(self) -> Idle:
        """Of an engine that says when it works."""
        return Idle()

    def playing(self, purpose: str, epoch: int) -> Engine:
        """Itself by default."""
        return self

    @asynccontextmanager
    async def lane(self, group: int = 0) -> AsyncIterator[None]:
        """One concurrent requester. Engines that batch in lockstep wait until every open lane of the group has a
        request pending; groups do not wait for each other."""
        yield

    async def sleep(self) -> None:
        """Nothing to give back by default."""

    async def wake(self) -> None:
        """Nothing to take back by default."""

    async def close(self) -> None:
        """Nothing to release by default."""
