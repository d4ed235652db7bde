"""One episode's kernel and files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.errors import KernelStartError, SandboxError
from sandbox.execution import Execution
from sandbox.limits import ResourceLimits
from sandbox.live import CANCELLED, DIED, LiveKernel
from sandbox.result import DEFAULT_TEXT_CHARS, ExecutionResult, ExecutionStatus
from sandbox.workspace import Workspace, remove_tree

_LOST = "the kernel was restarted: variables and imports are lost, files in the working directory are kept."
_START_ATTEMPTS = 2


@dataclass
class Counters:
    """What happened so far, over all sessions of a pool."""

    executions: int = 0
    running: int = 0
    """Executions at this moment."""
    timeouts: int = 0
    """Executions that ran too long, whether the interrupt stopped them or not."""
    restarts: int = 0
    """Kernels replaced within a session, for whatever reason."""


class KernelSession:
    """A live kernel with a private workspace; made by `KernelPool.session()`.

    The kernel may be replaced at any execution; the workspace stays for the whole session.
    """

    def __init__(
        self,
        folder: str,
        limits: ResourceLimits,
        make_kernel: Callable[[int], LiveKernel],
        *,
        freeze: bool = True,
        text_chars: int = DEFAULT_TEXT_CHARS,
        counters: Counters | None = None,
    ) -> None:
        """`make_kernel(generation)` gives a kernel that is not started; `folder` is removed at the end."""
        self.limits = limits
        self._workspace: Workspace | None = None
        self.kernel: LiveKernel | None = None
        self.folder, self._make_kernel, self._freeze, self._text_chars = folder, make_kernel, freeze, text_chars
        self._counters = counters or Counters()
        self._turn = asyncio.Lock()
        self._generation = 0
        self._closed = False

    @property
    def workspace(self) -> Workspace:
        """The session's files, from the first start on."""
        assert self._workspace is not None, "the session is not started"
        return self._workspace

    async def start(self) -> KernelSession:
        """Start the kernel. Raises KernelStartError."""
        self._generation += 1
        if self._workspace is not None:
            self._workspace.repair()
        self.kernel = await self._make_kernel(self._generation).start()
        assert self.kernel.storage is not None
        workspace = Workspace("ws", self.kernel.spec.uid, self.kernel.storage)
        if self._workspace is not None and self._workspace.same_as(workspace):
            workspace.close()
        else:  # the first one, or the fork server died, and with it the means to show the old one to a kernel
            old, self._workspace = self._workspace, workspace
            if old is not None:
                await asyncio.to_thread(workspace.copy_from, old)
                old.close()
        self._sleep()
        return self

    async def execute(self, code: str, timeout: float | None = None) -> ExecutionResult:  # noqa: ASYNC109
        """Run `code` for at most `timeout` seconds (None: the limit) and say how it ended.

        Never raises for what the code does. Cancelling the caller kills the kernel; the next call starts
        a fresh one. Raises SandboxError after `close`, KernelStartError if no kernel can be started.
        """
        async with self._turn:
            if self._closed:
                raise SandboxError("the sandbox session is closed")
            started, seconds = time.monotonic(), self.limits.execution_seconds if timeout is None else timeout
            self._counters.executions += 1
            fresh = self.kernel is None or not self.kernel.alive()
            kernel = await self._restart() if fresh else self.kernel
            assert kernel is not None
            run = await self._run(kernel, code, seconds)
            status, notice = self._judge(run, kernel, seconds)
            if status.lost_kernel and not self._closed:
                await self._restart()
            if fresh:
                notice = f"the kernel had ended since the last execution; {_LOST} {notice}".strip()
            return ExecutionResult(
                status=status,
                stdout=run.stdout.text(),
                stderr=run.stderr.text(),
                result=run.result,
                error_name=run.error_name,
                error_value=run.error_value,
                traceback=run.traceback,
                duration=time.monotonic() - started,
                kernel_restarted=fresh or status.lost_kernel,
                truncated=bool(run.dropped or run.stdout.omitted or run.stderr.omitted),
                notice=notice,
                text_chars=self._text_chars,
            )

    async def _run(self, kernel: LiveKernel, code: str, seconds: float) -> Execution:
        run = Execution(kernel, self.limits, seconds)
        kernel.freeze(False)
        self._counters.running += 1
        try:
            await run.run(code)
            if not kernel.alive():
                await kernel.kill(DIED)
        except asyncio.CancelledError:
            await asyncio.shield(kernel.kill(CANCELLED))
            raise
        finally:
            self._counters.running -= 1
            self._sleep()
        return run

    def _judge(self, run: Execution, kernel: LiveKernel, seconds: float) -> tuple[ExecutionStatus, str]:
        reason = kernel.kill_reason
        if reason is not None:
            self._counters.timeouts += reason.status is ExecutionStatus.KILLED_TIMEOUT
            return reason.status, f"{reason.text}; {_LOST}"
        if run.interrupted:
            self._counters.timeouts += 1
            return (
                ExecutionStatus.TIMEOUT,
                f"the code ran longer than {seconds:g} s and was interrupted; variables set so far are kept.",
            )
        notice = "part of the output was too large and was dropped." if run.dropped else ""
        return (ExecutionStatus.ERROR if run.error_name is not None else ExecutionStatus.OK), notice

    async def _restart(self) -> LiveKernel:
        self._counters.restarts += 1
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self.kernel is not None:
                await self.kernel.close()
            try:
                await self.start()
                break
            except KernelStartError:
                self.kernel = None
                if attempt == _START_ATTEMPTS:
                    raise
        assert self.kernel is not None
        return self.kernel

    def _sleep(self) -> None:
        """No computing and no message floods while nobody waits for this kernel."""
        if self._freeze and self.kernel is not None and self.kernel.alive():
            self.kernel.freeze(True)

    async def restart(self) -> None:
        """A fresh kernel in the same folder: for code that has spoilt its own. Raises as `execute`."""
        async with self._turn:
            if self._closed:
                raise SandboxError("the sandbox session is closed")
            await self._restart()

    def alive(self) -> bool:
        """Whether the kernel runs (an execution replaces a dead one)."""
        return self.kernel is not None and self.kernel.alive()

    async def close(self) -> None:
        """Kill the kernel and remove all files. May be called again."""
        self._closed = True
        if self.kernel is not None:
            await self.kernel.close()
        if self._workspace is not None:
            self._workspace.close()
        await asyncio.to_thread(remove_tree, self.folder)
