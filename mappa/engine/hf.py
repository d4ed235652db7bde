"""Generate with the trainer's own model, no copy of the weights: the CPU default, and the reference for the others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import EngineError
from mappa.types import StopReason

if TYPE_CHECKING:
    from pydantic import PositiveInt

    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters

STRETCH = 1.3
"""Longest over shortest prompt of one batch: padding costs as much as tokens do."""


@dataclass(frozen=True)
class _Request:
    agent: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    future: asyncio.Future[Completion]


class HFEngine(BaseEngine):
    """Concurrent requests are batched per adapter, in lockstep: a batch starts when every open lane has a request.

    So the make-up of each batch, and with it every rounding error, depends on the episodes alone and not on timing:
    a rollout can be repeated bit for bit.
    """

    shares_weights = True

    def __init__(
        self,
        max_batch: PositiveInt = 256,
        max_batch_tokens: PositiveInt = 65536,
        context_length: PositiveInt | None = None,
    ) -> None:
        """
        Args:
            max_batch: sequences generated together.
            max_batch_tokens: of their prompts, padding included; a longer prompt is alone.
            context_length: tokens; default: the model's own.
        """
        self._max_batch, self._max_tokens = max_batch, max_batch_tokens
        self._requested_length = context_length
        self._lanes = 0
        self._pending: list[_Request] = []
        self._dispatching = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf-engine")

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._adapters = adapters
        self._chat = chat
        self._version = 0
        limit = adapters.base.config.max_position_embeddings
        self.context_length = min(self._requested_length or limit, limit)

    async def sync(self, version: int) -> None:
        self._version = version

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[None]:
        self._lanes += 1
        try:
            yield
        finally:
            self._lanes -= 1
            self._dispatch_when_full()

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise EngineError(
                f"prompt of {len(prompt_ids)} tokens + completion budget {sampling.max_tokens} exceeds the context "
                f"of {self.context_length} tokens"
            )
        future = asyncio.get_running_loop().create_future()
        self._pending.append(_Request(agent, tuple(prompt_ids), sampling, future))
        self._dispatch_when_full()
        return await future

    async def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _dispatch_when_full(self) -> None:
        if self._pending and len(self._pending) >= self._lanes and not self._dispatching:
            self._dispatching = True
            task = asyncio.get_running_loop().create_task(self._dispatch())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # requesters were told already

    async def _dispatch(self) -> None:
        """Serve everything that is pending, one batch after the other, then answer all at once."""
        requests = [request for request in self._pending if not request.future.done()]  # nobody waits for the others
        self._pending = []
        loop = asyncio.get_running_loop()
        results: list[tuple[_Request, Completion]] = []
        try:
            for batch in self._batches(requests):
                completions = await loop.run_in_executor(self._thread, self._generate, batch)
                results += zip(batch, completions, strict=True)
        except BaseException as error:
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(error)
            raise
        finally:
            self._dispatching = False
            self._dispatch_when_full()  # without lanes (a server) requests come at any time
        for request, completion in results:
            if not request.future.done():
                request.future.set_result(completion)

    def _batches(self, requests: Sequence[_Request]) -> list[list[_Request]]:
        """Per adapter, similar prompt lengths together; independent of the order in which requests arrived."""
        by_agent: dict[str, list[_Request]] = defaultdict(list)
        for request in requests:
            by_agent[request.agent].append(request)
        batches = []
        for agent in sorted(by_agent):
            batch: list[_Request] = []
            for request in sorted(by_agent[agent], key=lambda r: (len(r.prompt_ids), r.sampling.seed, r.prompt_ids)):
                width = len(request.prompt_ids)
                full = len(batch) == self._max_batch or (len(batch) + 1) * width > self._max_tokens
                if batch and (full or width > STRETCH * len(batch[0].prompt_ids)):
                    batches.append(batch)
                    batch = []
                batch.append(request)
            batches.append(batch)
        return batches

    def _generate(self, batch: Sequence[_Request]) -> list[Completion]:
        from mappa.engine.hf_sampling import sample

        adapters = self._adapters
        with adapters.precision(), adapters.acting(batch[0].agent), adapters.evaluating():
            tokens_BT, logprobs_BT = sample(
                adapters.model,
                [request.prompt_ids for request in batch],
                [request.sampling for request in batch],
                self._chat.stop_ids,
                self._chat.pad_id,
            )
        return [
            self._completion(row, logprobs, request.sampling.max_tokens)
            for request, row, logprobs in zip(batch, tokens_BT.tolist(), logprobs_BT.tolist(), strict=True)
        ]

    def _completion(self, row: list[int], logprobs: list[float], max_tokens: int) -> Completion:
        row = row[:max_tokens]
        ends = [index for index, token in enumerate(row) if token in self._chat.stop_ids]
        length = ends[0] + 1 if ends else len(row)
        reason = StopReason.STOP if ends else StopReason.LENGTH
        return Completion(tuple(row[:length]), tuple(logprobs[:length]), reason, self._version)
