"""Generate with the trainer's own model, no copy of the weights: the CPU default, and the reference for the others."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import EngineError
from mappa.types import StopReason

if TYPE_CHECKING:
    from pydantic import PositiveInt

    from mappa.engine.hf_kept import Kept
    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters

STRETCH = 1.3
"""Longest over shortest prompt of one batch: padding costs as much as tokens do..."""
PADDING = 2048
"""...but so many tokens of it cost less than passes of its own for each token that a few long prompts' agents say."""


@dataclass(frozen=True)
class _Request:
    agent: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    future: asyncio.Future[Completion]
    kept: Kept | None
    """What the prompt begins with."""

    @property
    def width(self) -> int:
        """Tokens of the prompt that are still to be computed."""
        return len(self.prompt_ids) - (0 if self.kept is None else len(self.kept.token_ids))


@dataclass
class _Group:
    """Requesters that wait for each other."""

    lanes: int = 0
    pending: list[_Request] = field(default_factory=list)
    dispatching: bool = False
    kept: list[Kept] = field(default_factory=list)
    """Of the requests that were served last: an act's next turn is its lane's next request."""


class HFEngine(BaseEngine):
    """Concurrent requests are batched, all agents' together, in lockstep: a batch starts when every open lane of a
    group has one.

    So the make-up of each batch, and with it every rounding error, depends on the episodes alone and not on timing:
    a rollout can be repeated bit for bit.
    """

    shares_weights = True
    lockstep = True

    def __init__(
        self,
        max_batch: PositiveInt = 256,
        max_batch_tokens: PositiveInt = 65536,
        context_length: PositiveInt | None = None,
    ) -> None:
        """
        Args:
            max_batch: sequences generated together.
            max_batch_tokens: of their prompts, padding included; a longer prompt is alone. Of so many tokens a group
                of requesters has keys and values kept until its next requests, which may go on from them.
            context_length: tokens; default: the model's own.
        """
        self._max_batch, self._max_tokens = max_batch, max_batch_tokens
        self._requested_length = context_length
        self.computed = 0
        """Positions that went through the model, padding included."""
        self._groups: dict[int, _Group] = defaultdict(_Group)
        self._group: ContextVar[int] = ContextVar("group", default=0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf-engine")

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._adapters = adapters
        self._chat = chat
        self._version = 0
        limit = adapters.base.config.max_position_embeddings
        self.context_length = min(self._requested_length or limit, limit)

    async def sync(self, version: int) -> None:
        self._version = version
        await self.sleep()

    async def sleep(self) -> None:
        """What is kept is of the weights as they were."""
        for group in self._groups.values():
            group.kept = []

    @asynccontextmanager
    async def lane(self, group: int = 0) -> AsyncIterator[None]:
        mine, before = self._groups[group], self._group.set(group)
        mine.lanes += 1
        try:
            yield
        finally:
            mine.lanes -= 1
            self._group.reset(before)
            self._dispatch_when_full(mine)

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise EngineError(
                f"prompt of {len(prompt_ids)} tokens + completion budget {sampling.max_tokens} exceeds the context "
                f"of {self.context_length} tokens"
            )
        future, group = asyncio.get_running_loop().create_future(), self._groups[self._group.get()]
        prompt_ids = tuple(prompt_ids)
        kept = next((kept for kept in group.kept if kept.begins(agent, prompt_ids)), None)
        group.pending.append(_Request(agent, prompt_ids, sampling, future, kept))
        self._dispatch_when_full(group)
        return await future

    async def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _dispatch_when_full(self, group: _Group) -> None:
        if group.pending and len(group.pending) >= group.lanes and not group.dispatching:
            group.dispatching = True
            task = asyncio.get_running_loop().create_task(self._dispatch(group))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # requesters were told already

    async def _dispatch(self, group: _Group) -> None:
        """Serve everything that is pending in a group, one batch after the other, then answer all at once."""
        requests = [request for request in group.pending if not request.future.done()]  # nobody waits for the others
        group.pending, group.kept = [], []
        kept: list[Kept] = []
        loop = asyncio.get_running_loop()
        results: list[tuple[_Request, Completion]] = []
        try:
            for batch in self._batches(requests):
                with self.idle.working():
                    completions, more = await loop.run_in_executor(self._thread, self._generate, batch)
                results += zip(batch, completions, strict=True)
                kept += more
        except BaseException as error:
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(error)
            raise
        else:
            sizes = accumulate(len(one.token_ids) for one in kept)
            group.kept = [one for one, size in zip(kept, sizes, strict=True) if size <= self._max_tokens]
        finally:
            group.dispatching = False
            self._dispatch_when_full(group)  # without lanes (a server) requests come at any time
        for request, completion in results:
            if not request.future.done():
                request.future.set_result(completion)

    def _batches(self, requests: Sequence[_Request]) -> list[list[_Request]]:
        """Similar prompt lengths together, and in a batch each agent's; whatever order requests arrived in."""
        batches: list[list[_Request]] = []
        for request in sorted(requests, key=self._place):
            width, batch = request.width, batches[-1] if batches else []
            full = len(batch) == self._max_batch or (len(batch) + 1) * width > self._max_tokens
            alone = batch and not self._adapters.mixes and batch[0].agent != request.agent
            padding = sum(width - before.width for before in batch)
            stretched = batch and width > STRETCH * batch[0].width and padding > PADDING
            if not batch or full or alone or stretched:
                batches.append([])
            batches[-1].append(request)
        return [sorted(batch, key=lambda request: request.agent) for batch in batches]

    def _place(self, request: _Request) -> tuple[Any, ...]:
        agent = "" if self._adapters.mixes else request.agent
        return agent, request.width, request.agent, request.sampling.seed, request.prompt_ids

    def _generate(self, batch: Sequence[_Request]) -> tuple[list[Completion], list[Kept]]:
        """What is said, and what is kept of it for the next turn."""
        from mappa.engine.hf_kept import Kept
        from mappa.engine.hf_sampling import sample

        adapters = self._adapters

        def speak(rows: Sequence[int]) -> None:
            adapters.select_rows(tuple(Counter(batch[row].agent for row in rows).items()))

        first: dict[tuple[str, tuple[int, ...], int], int] = {}
        sources = [first.setdefault((r.agent, r.prompt_ids, id(r.kept)), row) for row, r in enumerate(batch)]
        with adapters.precision(), adapters.evaluating():
            made = sample(
                adapters.base,
                speak,
                [request.prompt_ids for request in batch],
                [request.sampling for request in batch],
                self._chat.stop_ids,
                self._chat.pad_id,
                [request.kept for request in batch],
                sources,
            )
        self.computed += made.computed
        completions = [
            self._completion(row, logprobs, request.sampling.max_tokens)
            for request, row, logprobs in zip(batch, made.tokens_BT.tolist(), made.logprobs_BT.tolist(), strict=True)
        ]
        kept = []
        for request, completion, layers in zip(batch, completions, made.layers, strict=True):
            token_ids = (*request.prompt_ids, *completion.token_ids)[:-1]  # the last was not seen by the model yet
            held = tuple((keys[:, : len(token_ids)], values[:, : len(token_ids)]) for keys, values in layers)
            kept += [Kept(request.agent, token_ids, held)] if held else []
        return completions, kept

    def _completion(self, row: list[int], logprobs: list[float], max_tokens: int) -> Completion:
        row = row[:max_tokens]
        ends = [index for index, token in enumerate(row) if token in self._chat.stop_ids]
        length = ends[0] + 1 if ends else len(row)
        reason = StopReason.STOP if ends else StopReason.LENGTH
        return Completion(tuple(row[:length]), tuple(logprobs[:length]), reason, self._version)
