"""Kills kernels that use too much memory, too many processes or too much disk as a whole, or that will not rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from sandbox.isolation import IsolationLevel
from sandbox.kernel.supervisor import descendants
from sandbox.limits import MIB
from sandbox.live import KillReason, LiveKernel, out_of_memory
from sandbox.result import ExecutionStatus
from sandbox.session import KernelSession
from sandbox.workspace import usage

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SOCKET_BYTES = MIB // 2
"""What may wait in one socket, both ways; no process is charged for it."""
_LOOKS_AT_REST, _WAKINGS = 2, 3
_WOKEN = KillReason(ExecutionStatus.DIED, "the code went on running after its execution had ended")


Look = Callable[[KernelSession, LiveKernel], KillReason | None]


class ResourceWatchdog:
    """Three tasks for all kernels of a pool; what they read of /proc and of disks they read in threads.

    A kernel that rests can change nothing: it is looked at once more, and then no longer.
    """

    def __init__(
        self, sessions: Callable[[], Iterable[KernelSession]], seconds: float = 0.5, disk_seconds: float = 2.0
    ) -> None:
        """Memory and processes are looked at every `seconds`, disks every `disk_seconds`."""
        self._sessions = sessions
        self._looks: tuple[tuple[float, Look], ...] = (
            (seconds, _excess), (seconds, _restlessness), (disk_seconds, _disk_excess),
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.get_running_loop().create_task(self._run(*look)) for look in self._looks]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, seconds: float, look: Look) -> None:
        while True:
            await asyncio.sleep(seconds)
            await asyncio.gather(*(self._watch(session, look) for session in list(self._sessions())))

    @staticmethod
    async def _watch(session: KernelSession, look: Look) -> None:
        kernel = session.kernel
        if kernel is None or not kernel.alive():
            return
        rest = kernel.rest
        if rest is not None and rest.seen[look] >= _LOOKS_AT_REST:
            return
        reason = await asyncio.to_thread(look, session, kernel)
        if rest is not None:
            rest.seen[look] += 1
        if reason is _WOKEN:
            if rest is None or kernel.rest is not rest:
                return  # it may run by now
            rest.seen[look], rest.woken = 0, rest.woken + 1
            if rest.woken < _WAKINGS:
                kernel.freeze(True)
                return
        if reason is not None:
            await kernel.kill(reason)


def _restlessness(session: KernelSession, kernel: LiveKernel) -> KillReason | None:
    """Code may have woken up what was to rest: that is stopped again, and there is an end to it."""
    return _WOKEN if kernel.group is None and kernel.rest is not None and _awake(kernel) else None


def _awake(kernel: LiveKernel) -> bool:
    """Whether anything of the kernel runs."""
    guardians = kernel.way.guardians(kernel.pid)
    return any(_state(pid, task) in "RS" for pid in descendants(guardians[-1]) for task in _tasks(pid))


def _state(pid: int, task: str) -> str:
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8", errors="replace") as file,
    ):
        return file.read().rpartition(") ")[2][:1]
    return "X"


def _tasks(pid: int) -> list[str]:
    """Of a process; the one that gives it its number may be gone, and /proc then shows nothing for that number."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _descriptors(pid: int) -> Iterator[str]:
    """Where /proc shows what the tasks of a process hold open; each may be gone by the time it is looked at."""
    for task in _tasks(pid):
        folder = f"/proc/{pid}/task/{task}/fd"
        with contextlib.suppress(OSError):
            yield from [f"{folder}/{fd}" for fd in os.listdir(folder)]


def _excess(session: KernelSession, kernel: LiveKernel) -> KillReason | None:
    kernel.give_way()
    limits = session.limits
    processes = [kernel.pid, *descendants(kernel.pid)]
    if len(processes) > limits.processes + 16:
        return KillReason(ExecutionStatus.DIED, f"the code started more than {limits.processes} processes")
    resident, held = sum(map(_resident, processes)), [fd for pid in processes for fd in _descriptors(pid)]
    bound = limits.total_memory_mib * MIB
    if resident <= bound - len(held) * _SOCKET_BYTES:
        return None  # whatever is held: which of it are sockets is dear to ask
    bound -= _socket_bytes(held)
    # resident sizes count shared pages once per process; the exact sum is dear, so only near the bound
    if resident > bound and sum(map(proportional, processes)) > bound:
        return out_of_memory(limits)
    return None


def _disk_excess(session: KernelSession, kernel: LiveKernel) -> KillReason | None:
    if kernel.way.level is IsolationLevel.NAMESPACE:  # its file systems are bounded themselves
        return None
    limits = session.limits
    bound = limits.workspace_mib * MIB
    size, entries = usage(session.folder, bound, limits.workspace_files)
    if entries > limits.workspace_files:
        return KillReason(ExecutionStatus.KILLED_DISK, f"the code made more than {limits.workspace_files} files")
    if size + _deleted(kernel) > bound:
        return KillReason(ExecutionStatus.KILLED_DISK, f"the code's files grew over {limits.workspace_mib} MiB")
    return None


def _deleted(kernel: LiveKernel) -> int:
    """Bytes of files that no folder lists any more: they take space until they are closed and unmapped everywhere."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in descendants(kernel.pid):
        for descriptor in _descriptors(pid):
            with contextlib.suppress(OSError):
                info = os.stat(descriptor)
                if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                    sizes[info.st_dev, info.st_ino] = info.st_blocks * 512
        for task in _tasks(pid)[-1:]:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/maps", "rb") as file:
                for line in file:
                    if line.endswith(b" (deleted)\n"):  # a part of it that is mapped keeps all of it
                        place, _, _, device, inode = line.split()[:5]
                        major, minor = (int(number, 16) for number in device.split(b":"))
                        key = os.makedev(major, minor), int(inode)
                        sizes[key] = max(sizes.get(key, 0), _mapped(pid, place, kernel.spec.limits.file_mib * MIB))
    return sum(sizes.values())


def _mapped(pid: int, place: bytes, largest: int) -> int:
    """Bytes on disk of a mapped file; an ordinary user is not told, and an eighth of the largest is assumed."""
    first, last = (int(number, 16) for number in place.split(b"-"))
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/map_files/{first:x}-{last:x}").st_blocks * 512
    return largest // 8


def _socket_bytes(descriptors: Iterable[str]) -> int:
    found: set[str] = set()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:"):
                found.add(target)
    return len(found) * _SOCKET_BYTES


def _resident(pid: int) -> int:
    for task in _tasks(pid):
        with contextlib.suppress(OSError, IndexError):
            with open(f"/proc/{pid}/task/{task}/statm", encoding="ascii") as file:
                pages = int(file.read().split()[1])
            if pages:
                return pages * _PAGE
    return 0


def proportional(pid: int) -> int:
    """Bytes of one process, pages it shares counted in parts."""
    for path in (f"/proc/{pid}", *(f"/proc/{pid}/task/{task}" for task in _tasks(pid))):
        with contextlib.suppress(OSError), open(f"{path}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    return 0
