"""What all sandbox provisioners share: clean start, signals to the right process, complete death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, ClassVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.kernel.supervisor import descendants
from sandbox.limits import ResourceLimits
from sandbox.provisioners.spec import LaunchSpec
from sandbox.users import pick_user, user_base
from sandbox.workspace import remove_tree

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_SUN_PATH = 107


def children(pid: int) -> list[int]:
    """Direct children of a process; empty once it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    return found


def popen(
    command: list[str], log_path: str, stdin: int = subprocess.DEVNULL, pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start `command` with nothing else inherited; what it says goes to a log. Takes a few milliseconds."""
    with open(log_path, "wb") as log:
        return subprocess.Popen(
            command,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            stdin=stdin,
            stdout=log,
            stderr=log,
            pass_fds=pass_fds,
            start_new_session=True,
        )


async def wait_readable(fd: int, seconds: float) -> bool:
    """Whether `fd` became readable (a pidfd: its process ended) in time, without blocking the loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    own = os.dup(fd)  # a loop keeps one reader for each number: an execution may be waiting for this one
    loop.add_reader(own, lambda: done.done() or done.set_result(None))
    try:
        await asyncio.wait_for(done, seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True


class SandboxProvisioner(LocalProvisioner):
    """Launches a kernel with a clean environment and a policy, and kills all of it.

    A session sets `spec`; under a plain `jupyter_client.KernelManager` (kernelspec metadata
    `kernel_provisioner`) a temporary workspace and control folder are made instead.
    """

    level: ClassVar[IsolationLevel] = IsolationLevel.NONE
    spec: LaunchSpec | None = None
    pidfd: int | None = None
    """Readable once the launched process is gone; None before the launch and after the cleanup."""
    _own_folder: str | None = None
    _kernel_pid: int | None = None
    _lifeline: int | None = None

    # --- to be said by each provisioner -------------------------------------------------------------

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """The confinement of this kernel."""
        raise NotImplementedError

    def command(self, spec: LaunchSpec, policy: KernelPolicy) -> list[str]:
        """What to execute; the policy lies in `<control>/policy.json`."""
        raise NotImplementedError

    def run_folder(self, spec: LaunchSpec) -> str:
        """The folder with the sockets, as the kernel sees it."""
        return f"{spec.control}/run"

    def guardians(self) -> list[int]:
        """Processes of ours between the launched one and the kernel: never frozen, pid 1 last."""
        return [self.pid]

    # --- launch -------------------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Write the two connection files (host's and kernel's names of the same sockets) and the policy."""
        spec = self.spec = self.spec or self._temporary_spec()
        run = f"{spec.control}/run"
        os.makedirs(run, mode=0o700)
        if len(run) + 4 > _SUN_PATH:
            raise ValueError(f"too long for unix sockets, choose a shorter base folder: {run}")
        manager = self.parent
        manager.transport, manager.ip = "ipc", f"{run}/k"
        for number, channel in enumerate(_CHANNELS, start=1):
            setattr(manager, f"{channel}_port", number)
        kwargs = await super().pre_launch(**kwargs)
        inside = {**manager.get_connection_info(), "ip": f"{self.run_folder(spec)}/k", "kernel_name": "sandbox"}
        inside["key"] = inside["key"].decode()
        self._write(f"{run}/kernel.json", json.dumps(inside))
        policy = self.policy(spec)
        self._write(f"{spec.control}/policy.json", policy.to_json())
        if policy.uid is not None:
            for path in (run, f"{run}/kernel.json"):
                os.chown(path, policy.uid, policy.uid)
        kwargs.pop("independent", None)
        return {**kwargs, "cmd": self.command(spec, policy)}

    @staticmethod
    def _write(path: str, text: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o644)  # the folder around it is closed

    def _temporary_spec(self) -> LaunchSpec:
        folder = self._own_folder = tempfile.mkdtemp(prefix="mx-", dir="/tmp")
        os.chmod(folder, 0o711)
        uid = pick_user(0, user_base())
        os.mkdir(f"{folder}/ws", 0o700)
        if uid is not None:
            os.chown(f"{folder}/ws", uid, uid)
        os.mkdir(f"{folder}/c", 0o711)
        return LaunchSpec(ResourceLimits(), f"{folder}/ws", f"{folder}/c", uid=uid)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start `cmd` with nothing inherited but one end of a pipe, as stdin, whose other end this process holds."""
        assert self.spec is not None
        reading, self._lifeline = os.pipe()
        try:
            self.process = popen(cmd, f"{self.spec.control}/launch.log", stdin=reading)
        finally:
            os.close(reading)
        self.pid = self.pgid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        return self.connection_info

    # --- signals and death --------------------------------------------------------------------------

    def kernel_pid(self) -> int | None:
        """The process that runs the code; learnt once, before it can run any."""
        if self._kernel_pid is None and self.pidfd is not None:
            below = children(self.guardians()[-1])
            self._kernel_pid = below[0] if below else None
        return self._kernel_pid

    async def send_signal(self, signum: int) -> None:
        """SIGINT goes to the kernel itself, wherever it sits; others to the launched process."""
        with contextlib.suppress(ProcessLookupError):
            if signum == signal.SIGINT:
                if pid := self.kernel_pid():
                    os.kill(pid, signum)
            elif self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signum)

    def freeze(self, frozen: bool) -> None:
        """Stop or continue everything below the guardians; repeated, since a fork may race."""
        if self.pidfd is None:
            return
        guardians = self.guardians()
        known: set[int] = set()
        for _ in range(8):
            below = set(descendants(guardians[-1])) - known
            if not below:
                break
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            known |= below

    async def kill(self, restart: bool = False) -> None:
        """End every process of the kernel, bounded in time; returns when they are gone."""
        if self.pidfd is None:
            return
        self.begin_kill()
        if not await wait_readable(self.pidfd, 5.0):
            for pid in (*descendants(self.pid), self.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            await wait_readable(self.pidfd, 5.0)

    def begin_kill(self) -> None:
        """Order the death of everything, without waiting: pid 1 of the namespaces takes all with it."""
        guardians = self.guardians()
        with contextlib.suppress(OSError):
            os.kill(guardians[-1], signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """There is nothing worth a polite goodbye inside."""
        await self.kill(restart)

    async def wait(self) -> int | None:
        """Until the launched process is gone."""
        if self.pidfd is not None:
            await wait_readable(self.pidfd, 60.0)
        code = self.process.poll() if self.process else None
        self.process = None
        return code

    async def cleanup(self, restart: bool = False) -> None:
        """Forget the process; remove what a plain kernel manager would not know of."""
        if self.process is not None:
            self.process.poll()
        if self.pidfd is not None:
            os.close(self.pidfd)
        if self._lifeline is not None:
            os.close(self._lifeline)
        self.pidfd = self._kernel_pid = self._lifeline = None
        if self._own_folder is not None:
            remove_tree(self._own_folder)
            self._own_folder = self.spec = None

    def log_tail(self) -> str:
        """The end of what the launch and the kernel complained about."""
        if self.spec is None:
            return ""
        return "\n".join(tails((f"{self.spec.control}/launch.log", f"{self.spec.control}/run/kernel.log"))).strip()


def tails(paths: tuple[str, ...], size: int = 2000) -> Iterator[str]:
    """The last `size` bytes of each file that is there; links are not followed."""
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                file.seek(max(0, os.fstat(fd).st_size - size))
                yield file.read(size).decode("utf-8", "replace")
