"""One living kernel: launched, watched, frozen and killed as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections import Counter
from dataclasses import dataclass, field

from sandbox.cgroup import Group
from sandbox.channels import Channels
from sandbox.errors import KernelStartError
from sandbox.kernel.supervisor import children, descendants
from sandbox.limits import ResourceLimits
from sandbox.provisioners.choice import Choice
from sandbox.provisioners.forkserver import exit_seen, process_of, wait_readable
from sandbox.provisioners.spec import LaunchSpec
from sandbox.result import ExecutionStatus
from sandbox.workspace import tail

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_LAST_SECONDS = 5.0


@dataclass(frozen=True)
class KillReason:
    """Why a kernel had to die, for the result and for the agent."""

    status: ExecutionStatus
    text: str


CLOSED = KillReason(ExecutionStatus.DIED, "the session was closed")
DIED = KillReason(ExecutionStatus.DIED, "the kernel died while running the code")
CANCELLED = KillReason(ExecutionStatus.DIED, "the execution was cancelled")


def out_of_memory(limits: ResourceLimits) -> KillReason:
    """Who uses more than the limit is told so."""
    text = f"the code used more than {limits.total_memory_mib} MiB of memory"
    return KillReason(ExecutionStatus.KILLED_MEMORY, text)


@dataclass
class Rest:
    """The time a kernel is to be still, and how that goes."""

    woken: int = 0
    """How often something of it was seen running."""
    seen: Counter[object] = field(default_factory=Counter)
    """What looked at it how often since."""


def connection_file(key: str, folder: str) -> str:
    """What Jupyter writes for a kernel whose sockets lie in `folder`."""
    ports = {f"{channel}_port": number for number, channel in enumerate(_CHANNELS, start=1)}
    scheme = {"transport": "ipc", "ip": f"{folder}/k", "key": key, "signature_scheme": "hmac-sha256"}
    return json.dumps({**ports, **scheme, "kernel_name": "sandbox"})


class LiveKernel:
    """A kernel process with everything below it, and the channels to it."""

    def __init__(self, spec: LaunchSpec, choice: Choice) -> None:
        """Starts nothing."""
        self.spec, self.way = spec, choice.way
        self.kill_reason: KillReason | None = None
        self.yields = False
        """See `give_way`."""
        self.rest: Rest | None = None
        """Between executions."""
        self.key = secrets.token_hex(32)
        self.pid = 0
        """The launched process, ancestor of all others; 0 = none yet."""
        self.storage: int | None = None
        """Descriptor of the folder that holds `ws`, the workspace, and the kernel's `run` folder."""
        self.group: Group | None = None
        """Of the process that runs the code, and all it starts; None where groups cannot be had."""
        self._server, self._groups = choice.forkserver, choice.groups
        self._pidfd: int | None = None
        self._kernel_pid: int | None = None
        self._channels: Channels | None = None

    async def launch(self) -> None:
        """Start the process. Raises KernelStartError or OSError."""
        order = self.way.order(self.spec, connection_file(self.key, self.way.run_folder(self.spec)))
        self._pidfd, *received = await self._server.spawn(order)
        self.pid = process_of(self._pidfd)
        self.storage = self.way.storage(self.spec, received)

    async def start(self) -> LiveKernel:
        """Launch and wait for the first answers. Raises KernelStartError, with nothing left behind."""
        try:
            await self.launch()
            assert self.storage is not None
            run = os.open(self.spec.run, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.storage)
            try:
                self._channels = Channels(self.key.encode(), self.pidfd, self.spec.limits)
                await self._channels.open(run)
            finally:
                os.close(run)
            self._join_group(self.kernel_pid())
        except BaseException as error:
            log = "" if self.storage is None else tail(self.storage, f"{self.spec.run}/kernel.log")
            log = log or self._server.log()
            await asyncio.shield(self.close())
            if isinstance(error, (KernelStartError, OSError)):
                cause = f" ({log.splitlines()[-1]})" if log else ""
                raise KernelStartError(f"the kernel did not start: {error}{cause}\n{log}".strip()) from error
            raise
        return self

    @property
    def pidfd(self) -> int:
        """Readable once `pid` is gone."""
        assert self._pidfd is not None, "the kernel is not running"
        return self._pidfd

    @property
    def channels(self) -> Channels:
        """Open from `start` to `close`."""
        assert self._channels is not None, "the kernel is not running"
        return self._channels

    def alive(self) -> bool:
        """Whether the launched process runs."""
        return self._pidfd is not None and not exit_seen(self._pidfd)

    def kernel_pid(self) -> int | None:
        """The process that runs the code; learnt once, before it can run any."""
        if self._kernel_pid is None and self.alive():
            below = children(self.way.guardians(self.pid)[-1])
            self._kernel_pid = below[0] if below else None
        return self._kernel_pid

    def _join_group(self, pid: int | None) -> None:
        if self._groups is not None and pid is not None:
            self.group = self._groups.make(f"{self.spec.slot}-{self.spec.generation}", self.spec.limits)
            self.group.add(pid)

    def signal(self, signum: int) -> None:
        """To the kernel itself, wherever it sits."""
        pid = self.kernel_pid()
        if pid is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def freeze(self, frozen: bool) -> None:
        """Stop or continue everything below the guardians; where there is no group repeated, since a fork may race."""
        if not self.alive():
            return
        self.rest = (self.rest or Rest()) if frozen else None
        if self.group is not None:
            self.group.freeze(frozen)
            return
        top = self.way.guardians(self.pid)[-1]
        known: set[int] = set()
        for _ in range(8):
            below = set(descendants(top)) - known
            if not below:
                break
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            known |= below

    def give_way(self) -> None:
        """Weigh less than the trainer, all processes together, where the system counts by sessions (autogroup).

        Half as nice as each process is: honest code should not starve. The system takes such wishes ten times a
        second at most: to be repeated until it has.
        """
        if not self.yields:
            try:
                with open(f"/proc/{self.pid}/autogroup", "w", encoding="ascii") as file:
                    file.write(str(self.spec.limits.nice // 2))
                self.yields = True
            except BlockingIOError:
                pass
            except OSError:
                self.yields = True  # there is no such thing here, and niceness counts process by process

    async def kill(self, reason: KillReason) -> None:
        """End all its processes, bounded in time; the first reason is kept. Whoever died of its memory is told so."""
        if self.kill_reason is None and self.group is not None and self.group.out_of_memory():
            reason = out_of_memory(self.spec.limits)
        self.kill_reason = self.kill_reason or reason
        if self.group is not None:
            self.group.kill()
        if not self.alive():
            return
        self.way.begin_kill(self.pid)
        if not await wait_readable(self.pidfd, self.way.kill_seconds):
            for pid in (*descendants(self.pid), self.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            await wait_readable(self.pidfd, _LAST_SECONDS)

    async def close(self) -> None:
        """Kill, close the channels, remove what it leaves. May be called again."""
        await self.kill(CLOSED)
        if self._channels is not None:
            self._channels.close()
            self._channels = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self.storage is not None:
            os.close(self.storage)
            self.storage = None
        group, self.group = self.group, None
        if group is not None:
            await asyncio.to_thread(group.remove)
        await asyncio.to_thread(self.way.clean, self.spec)
