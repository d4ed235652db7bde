"""The pool: the only part a trainer talks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from sandbox.cgroup import Groups
from sandbox.errors import KernelStartError, SandboxError
from sandbox.folder import PoolFolder, sweep
from sandbox.isolation import IsolationLevel
from sandbox.limits import ResourceLimits
from sandbox.live import LiveKernel
from sandbox.provisioners.choice import GAPS, Choice, candidates, prepare, refusal, unaccepted
from sandbox.provisioners.spec import LaunchSpec
from sandbox.result import DEFAULT_TEXT_CHARS
from sandbox.session import Counters, KernelSession
from sandbox.users import pick_user
from sandbox.watchdog import ResourceWatchdog

if TYPE_CHECKING:
    from pydantic import NonNegativeInt, PositiveInt

log = logging.getLogger(__name__)

DEFAULT_PRELOAD = ("numpy", "pandas", "sklearn.ensemble", "sklearn.linear_model", "sklearn.model_selection")
_LOOK_SECONDS = 0.02
"""Between two looks at whether code runs."""


class KernelPool:
    """Kernels for many episodes at once, some of them started ahead.

    Everything runs on one event loop, whose thread must outlive the pool: kernels die with the thread that
    started them. Use `start` and `close`, or `async with`.
    """

    def __init__(
        self,
        limits: ResourceLimits | None = None,
        *,
        max_kernels: PositiveInt = 64,
        warm: NonNegativeInt = 4,
        start_concurrency: PositiveInt | None = None,
        require: str = IsolationLevel.PROCESS,
        allow_unsafe: bool = False,
        accept: Sequence[str] = (),
        level: str = "auto",
        preload: Sequence[str] = DEFAULT_PRELOAD,
        observation_chars: PositiveInt = DEFAULT_TEXT_CHARS,
        freeze: bool = True,
        base_dir: str | None = None,
    ) -> None:
        """Starts nothing.

        max_kernels: sessions at once; more wait. warm: kernels kept ready. start_concurrency: kernels started
        at once (None: number of processors). require: least isolation level accepted. allow_unsafe: accept
        level `none` unless `require` is `namespace`. accept: names of `provisioners.choice.GAPS` that may be
        open. level: `auto`, the strongest that works here, or one by name. preload: modules imported once,
        before kernels are forked. observation_chars: default length of `ExecutionResult.to_text`. freeze: stop
        kernels between executions. base_dir: where workspaces lie at level `process`; at most 60 characters long.
        """
        self.limits = limits or ResourceLimits()
        self.counters = Counters()
        unknown = sorted(set(accept) - set(GAPS))
        if unknown:
            raise ValueError(f"unknown sandbox.accept {', '.join(unknown)}: only {', '.join(GAPS)} can be accepted")
        self._wish, self._accept = level, tuple(accept)
        self._candidates = candidates(level, IsolationLevel(require), allow_unsafe)
        self._require, self._preload, self._freeze = IsolationLevel(require), tuple(preload), freeze
        self._text_chars, self._base_dir, self._max_kernels, self._warm = observation_chars, base_dir, max_kernels, warm
        self._start_concurrency = start_concurrency or os.cpu_count() or 1
        self._slot = 0
        self._ready: deque[KernelSession] = deque()
        self._live: set[KernelSession] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._choice: Choice | None = None
        self._folder: PoolFolder | None = None
        self._groups: Groups | None = None
        self._watchdog: ResourceWatchdog | None = None
        self._closed = False

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> KernelPool:
        """Find what works here by starting a kernel, say so in one line, remove leftovers, warm up.

        Raises SandboxUnavailableError, with one line that says why, if the required level is not reached.
        Does nothing when it has been started; raises SandboxError when it has been closed.
        """
        if self._closed:
            raise SandboxError("the sandbox pool is closed")
        if self._choice is not None:
            return self
        self._places = asyncio.Semaphore(self._max_kernels)
        self._starts = asyncio.Semaphore(self._start_concurrency)
        self._folder = PoolFolder(self._base_dir)
        await asyncio.to_thread(sweep, self._folder.base)
        with contextlib.suppress(OSError):  # `doctor` says why
            self._groups = await asyncio.to_thread(Groups)
        reasons: list[str] = []
        try:
            for candidate in self._candidates:
                refused = unaccepted(candidate, self._folder.user_base is not None, self._accept)
                if refused:
                    reasons.append(f"{candidate}: {refused}")
                    continue
                try:
                    self._choice = await prepare(candidate, self._folder.path, self._preload, self._groups)
                    self._ready.append(await self._open())
                    break
                except (KernelStartError, OSError) as error:
                    reasons.append(f"{candidate}: {str(error).splitlines()[0]}")
                    await self._drop_choice()
            else:
                raise refusal(self._wish, self._require, reasons)
        except BaseException:
            await self.close()
            raise
        self.statement = self._choice.statement(reasons)
        log.warning("%s", self.statement)
        self._watchdog = ResourceWatchdog(lambda: [*self._live, *self._ready])
        self._watchdog.start()
        self._refill()
        return self

    async def close(self) -> None:
        """Kill every kernel and remove every file. May be called again, and without `start`."""
        self._closed = True
        if self._watchdog is not None:
            await self._watchdog.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        sessions = [*self._live, *self._ready]
        self._live.clear()
        self._ready.clear()
        await asyncio.gather(*(session.close() for session in sessions))
        await self._drop_choice()
        if self._groups is not None:
            await asyncio.to_thread(self._groups.close)
            self._groups = None
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)
            self._folder = None

    async def _drop_choice(self) -> None:
        if self._choice is not None:
            await self._choice.close()
            self._choice = None

    async def __aenter__(self) -> KernelPool:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    @property
    def level(self) -> IsolationLevel:
        """The level reached; known after `start`."""
        if self._choice is None:
            raise SandboxError("the sandbox pool is not started")
        return self._choice.level

    # --- sessions -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[KernelSession]:
        """One kernel and one private workspace, both gone at the end. Waits while `max_kernels` are in use."""
        if self._choice is None or self._closed:
            raise SandboxError("the sandbox pool is not started, or closed")
        async with self._places:
            session = await self._take()
            self._live.add(session)
            self._refill()
            try:
                yield session
            finally:
                self._live.discard(session)
                self._refill()
                closing = self._background(self._close(session))
                await asyncio.shield(closing)

    async def _take(self) -> KernelSession:
        while self._ready:
            session = self._ready.popleft()
            if session.alive():
                return session
            await self._close(session)
        return await self._open()

    async def _open(self) -> KernelSession:
        assert self._folder is not None
        async with self._starts:
            slot, self._slot = self._slot, self._slot + 1
            folder = f"{self._folder.path}/{slot}"
            uid = pick_user(slot, self._folder.user_base)
            os.mkdir(folder, 0o711)
            session = KernelSession(
                folder,
                self.limits,
                lambda generation: self._make_kernel(folder, generation, slot, uid),
                freeze=self._freeze,
                text_chars=self._text_chars,
                counters=self.counters,
            )
            try:
                return await session.start()
            except BaseException:
                await asyncio.shield(self._close(session))
                raise

    def _make_kernel(self, folder: str, generation: int, slot: int, uid: int | None) -> LiveKernel:
        assert self._choice is not None
        return LiveKernel(LaunchSpec(self.limits, folder, generation, slot, uid), self._choice)

    async def _close(self, session: KernelSession) -> None:
        await session.close()
        if self._choice is not None:
            await self._choice.forkserver.forget(os.path.basename(session.folder))

    # --- spares -------------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Start what is missing of the warm kernels, in the background."""
        if not self._closed and not any(task.get_name() == "warm" for task in self._tasks):
            self._background(self._fill(), "warm")

    async def _fill(self) -> None:
        """Code that runs goes first: somebody waits for it, and for a spare nobody does."""
        processors = os.cpu_count() or 1
        while (missing := min(self._warm, self._max_kernels - len(self._live)) - len(self._ready)) > 0:
            if self.counters.running >= processors:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            spares = [self._add_spare() for _ in range(min(missing, self._start_concurrency))]
            for error in await asyncio.gather(*spares, return_exceptions=True):
                if isinstance(error, (KernelStartError, OSError)):
                    log.error("a spare sandbox kernel did not start: %s", error)
                    return
                if error is not None:
                    raise error

    async def _add_spare(self) -> None:
        self._ready.append(await self._open())

    def _background(self, work: object, name: str = "close") -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
