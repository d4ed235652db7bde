"""Control groups (version 2) where the trainer may make them: a kernel is frozen, killed and bounded as a whole.

Each file of a group is used where the group has it. Code cannot reach them: they are mounted nowhere inside, or
Landlock denies it. Without groups everything is done process by process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import time

from sandbox.kernel.supervisor import descendants
from sandbox.limits import MIB, ResourceLimits

CONTROLLERS = ("cpu", "memory", "pids")
_PREFIX, _LEAF = "mappa-sandbox-", "mappa-trainer"
_REMOVE_SECONDS = 5.0

log = logging.getLogger(__name__)


def own_group(groups: str, mounts: str) -> str:
    """Folder of the group this process is in: /proc/self/cgroup and mountinfo say it. Raises OSError for none."""
    own = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), None)
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        root, folder = place.split()[3:5]
        root = root.rstrip("/")
        if own is not None and kind.startswith("cgroup2 ") and f"{own}/".startswith(f"{root}/"):
            return f"{folder}{own.removeprefix(root)}".rstrip("/")
    raise OSError("no file system of control groups (version 2) is mounted")


class Group:
    """Of one kernel."""

    def __init__(self, path: str, limits: ResourceLimits) -> None:
        """Make it, empty. Raises OSError."""
        self.path = path
        os.mkdir(path)
        memory = limits.total_memory_mib + limits.workspace_mib + 2 * limits.tmp_mib  # files in memory count, too
        bounds = {
            "memory.max": memory * MIB,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "pids.max": limits.processes,
        }
        for name, value in bounds.items():
            with contextlib.suppress(FileNotFoundError):
                _write(f"{path}/{name}", value)

    def add(self, pid: int) -> None:
        """All threads of this process; what it starts from now on is in it by itself. Raises OSError."""
        _write(f"{self.path}/cgroup.procs", pid)

    def freeze(self, frozen: bool) -> None:
        """Stop everything in it, or let it go on; no fork escapes."""
        _write(f"{self.path}/cgroup.freeze", int(frozen))

    def kill(self) -> None:
        """Everything in it, at once (Linux 5.14)."""
        with contextlib.suppress(FileNotFoundError):
            _write(f"{self.path}/cgroup.kill", 1)

    def out_of_memory(self) -> bool:
        """Whether the system killed it for its use of memory."""
        with contextlib.suppress(FileNotFoundError):
            return "oom_kill 0" not in _read(f"{self.path}/memory.events").splitlines()
        return False

    def remove(self) -> None:
        """Once all in it are dead, which takes a moment longer than their death is told."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while True:
            try:
                return os.rmdir(self.path)
            except OSError as error:
                if time.monotonic() > deadline:
                    return log.warning("a control group is left to the next start: %s", error)
            time.sleep(0.005)


class Groups:
    """The group of one pool, which holds those of its kernels."""

    def __init__(self) -> None:
        """Make it, and try it on a process. Raises OSError where that does not work."""
        above = own_group(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
        if os.path.basename(above) == _LEAF:  # an earlier pool of this process has moved it there
            above = os.path.dirname(above)
        _sweep(above)
        self.controllers = _share_out(above)
        """Those that bound kernels: by cpu all of them together weigh as much as the trainer, and each the same."""
        self.path = f"{above}/{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        os.mkdir(self.path)
        try:
            _switch_on(self.path, self.controllers)
            self._try()
        except BaseException:
            self.close()
            raise

    def describe(self) -> str:
        """What of it is used, in half a line."""
        killing = ["killing"] if os.path.exists(f"{self.path}/cgroup.kill") else []
        return f"control groups ({', '.join(['freezing', *killing, *self.controllers])})"

    def make(self, name: str, limits: ResourceLimits) -> Group:
        """A group for one kernel. Raises OSError."""
        return Group(f"{self.path}/{name}", limits)

    def _try(self) -> None:
        group = self.make("trial", ResourceLimits())
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                group.add(process.pid)
                group.freeze(True)
                group.kill()
            finally:
                process.kill()
        group.remove()

    def close(self) -> None:
        """Remove it; its kernels are gone."""
        _remove(self.path)


def _share_out(above: str) -> list[str]:
    """Let groups below `above` have its controllers; returns which.

    A group with processes in it, but for the root of all, cannot do that: where this process and those below it are
    alone there, they move to a group beside the pools'. Else there are no controllers.
    """
    offered = [name for name in CONTROLLERS if name in _read(f"{above}/cgroup.controllers").split()]
    is_root = not os.path.exists(f"{above}/cgroup.type")
    while offered and not is_root and (inside := {int(pid) for pid in _read(f"{above}/cgroup.procs").split()}):
        if not inside <= {os.getpid(), *descendants(os.getpid())}:
            return []
        os.makedirs(f"{above}/{_LEAF}", exist_ok=True)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                _write(f"{above}/{_LEAF}/cgroup.procs", pid)
    _switch_on(above, offered)
    return offered


def _switch_on(path: str, controllers: list[str]) -> None:
    """For the groups below `path`."""
    if controllers:
        _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))


def _sweep(above: str) -> None:
    """Remove the groups of trainers that were killed."""
    for name in os.listdir(above):
        if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{name[len(_PREFIX) :].partition('-')[0]}"):
            _remove(f"{above}/{name}")


def _remove(path: str) -> None:
    """A pool's group with the empty ones in it; what another user's is, or still holds a process, stays."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if entry.is_dir():
                os.rmdir(entry)
        os.rmdir(path)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, value: object) -> None:
    """Never makes a file. Raises OSError: FileNotFoundError where the system has made none."""
    with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "w", encoding="ascii") as file:
        file.write(str(value))
