"""Kills kernels that use too much memory, too many processes or too much disk as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterable

from sandbox import sharedmemory
from sandbox.kernel.supervisor import descendants
from sandbox.limits import MIB
from sandbox.live import KillReason, LiveKernel
from sandbox.result import ExecutionStatus
from sandbox.session import KernelSession
from sandbox.workspace import usage

_PAGE = os.sysconf("SC_PAGE_SIZE")


class ResourceWatchdog:
    """One task for all kernels of a pool; what it reads of /proc and of disks it reads in a thread."""

    def __init__(
        self, sessions: Callable[[], Iterable[KernelSession]], seconds: float = 0.5, disk_every: int = 4
    ) -> None:
        """Memory and processes are looked at every `seconds`, disks every `disk_every` times that."""
        self._sessions, self._seconds, self._disk_every = sessions, seconds, disk_every
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        round_number = 0
        while True:
            await asyncio.sleep(self._seconds)
            round_number += 1
            with_disk = round_number % self._disk_every == 0
            for session in list(self._sessions()):
                kernel = session.kernel
                if kernel is None or not kernel.alive():
                    continue
                reason = await asyncio.to_thread(_excess, session, kernel, with_disk)
                if reason is not None:
                    await kernel.kill(reason)


def _excess(session: KernelSession, kernel: LiveKernel, with_disk: bool) -> KillReason | None:
    limits = session.limits
    processes = [kernel.pid, *descendants(kernel.pid)]
    if len(processes) > limits.processes + 16:
        return KillReason(ExecutionStatus.DIED, f"the code started more than {limits.processes} processes")
    bound = limits.total_memory_mib * MIB
    # resident sizes count shared pages once per process; the exact sum is dear, so only near the bound
    if sum(map(_resident, processes)) > bound and sum(map(proportional, processes)) > bound:
        text = f"the code used more than {limits.total_memory_mib} MiB of memory"
        return KillReason(ExecutionStatus.KILLED_MEMORY, text)
    return _disk_excess(session, kernel, processes) if with_disk else None


def _disk_excess(session: KernelSession, kernel: LiveKernel, processes: list[int]) -> KillReason | None:
    limits, uid = session.limits, kernel.spec.uid
    bound = limits.workspace_mib * MIB
    size = _deleted_but_open(processes) + (sharedmemory.usage(uid) if uid is not None else 0)
    for folder in (session.workspace.path, kernel.spec.control):
        more, entries = usage(folder, bound, limits.workspace_files)
        size += more
        if entries > limits.workspace_files:
            text = f"the code made more than {limits.workspace_files} files"
            return KillReason(ExecutionStatus.KILLED_DISK, text)
    if size > bound:
        return KillReason(ExecutionStatus.KILLED_DISK, f"the code's files grew over {limits.workspace_mib} MiB")
    return None


def _deleted_but_open(processes: list[int]) -> int:
    """Bytes of files that no folder lists any more: they take space until their last descriptor is closed."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                        sizes[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(sizes.values())


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def proportional(pid: int) -> int:
    """Bytes of one process, pages it shares counted in parts."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
