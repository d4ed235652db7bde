"""The first epoch's training episodes are played by another model, a larger one for instance, to learn from them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from mappa.engine.base import Completion, Engine, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters


class TeacherEngine:
    """The student in everything, but that `teacher` plays the training episodes of epoch 0.

    Both have the same vocabulary: tokens in, tokens out. What the teacher said is off-policy, so only objectives that
    select take it (Optima, arXiv 2410.08115, and STaR start from a larger model's answers in this way).
    """

    def __init__(self, student: Engine, teacher: Engine) -> None:
        self._student, self._teacher = student, teacher

    @property
    def shares_weights(self) -> bool:
        return self._student.shares_weights

    @property
    def takes_weights(self) -> bool:
        return self._student.takes_weights

    @property
    def context_length(self) -> int:
        """The shorter of the two."""
        return min(self._student.context_length, self._teacher.context_length)

    def playing(self, purpose: str, epoch: int) -> Engine:
        return self._teacher if purpose == "train" and epoch == 0 else self._student

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._student.attach(adapters, chat, model_path)
        self._teacher.attach(adapters, chat, model_path)

    def lane(self, group: int = 0) -> AbstractAsyncContextManager[None]:
        return self._student.lane(group)

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._student.generate(agent, prompt_ids, sampling)

    async def sync(self, version: int) -> None:
        await self._student.sync(version)

    async def sleep(self) -> None:
        await self._student.sleep()

    async def wake(self) -> None:
        await self._student.wake()

    async def close(self) -> None:
        await self._student.close()
        await self._teacher.close()
