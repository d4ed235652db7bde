"""Kernels without namespaces: `LandlockProvisioner` (level `process`) and `PlainProvisioner` (level `none`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any, ClassVar

from sandbox import sharedmemory
from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.provisioners.base import SandboxProvisioner
from sandbox.provisioners.spec import KERNEL_PACKAGE, LaunchSpec, base_policy, environment, python_roots
from sandbox.users import reachable_by_others


class PlainProvisioner(SandboxProvisioner):
    """Resource limits, a clean environment, an unprivileged user where the trainer is root; nothing more."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NONE

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """Limits and a supervisor."""
        home = f"{spec.control}/tmp"
        os.makedirs(home, mode=0o700, exist_ok=True)
        if spec.uid is not None:
            os.chown(home, spec.uid, spec.uid)
        return base_policy(
            spec,
            run_folder=self.run_folder(spec),
            working_dir=spec.workspace,
            home=home,
            launcher=os.getpid(),
            supervise=True,
            own_pid_namespace=False,
            read_anywhere=spec.uid is not None and not reachable_by_others([*python_roots(), KERNEL_PACKAGE]),
            # without an own uid this limit counts every process of the user: the watchdog counts instead
            **({} if spec.uid is not None else {"processes": 0}),
            **self.confinement(spec, home),
        )

    def confinement(self, spec: LaunchSpec, home: str) -> dict[str, Any]:
        """What is added to the limits."""
        return {"landlock": "off", "seccomp": False}

    def command(self, spec: LaunchSpec, policy: KernelPolicy) -> list[str]:
        """The interpreter, isolated from environment and user site."""
        return [sys.executable, "-I", f"{KERNEL_PACKAGE}/__main__.py", "kernel", f"{spec.control}/policy.json"]

    async def cleanup(self, restart: bool = False) -> None:
        """Also remove what an own user left in shared memory."""
        if self.spec is not None and self.spec.uid is not None:
            sharedmemory.remove(self.spec.uid)
        await super().cleanup(restart)

    def begin_kill(self) -> None:
        """Ask the supervisor, which kills every descendant and then ends."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGTERM)


_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/fonts", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/version"),
    *("/proc/filesystems", "/proc/sys/kernel", "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu"),
    *(f"/sys/fs/cgroup/{name}" for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class LandlockProvisioner(PlainProvisioner):
    """Landlock and seccomp where namespaces cannot be had, as in most containers."""

    level: ClassVar[IsolationLevel] = IsolationLevel.PROCESS
    pretend_abi: ClassVar[int] = 0
    """Act as on a kernel with an older Landlock (tests); 0 = use what there is."""

    def confinement(self, spec: LaunchSpec, home: str) -> dict[str, Any]:
        """Read the system and the interpreter; write the workspace, a private temporary folder and the sockets."""
        variables = environment(spec.limits.cpus, home)
        return {
            "landlock": "require",
            "landlock_abi": self.pretend_abi,
            "read_only": [*_SYSTEM, KERNEL_PACKAGE, *python_roots()],
            "writable": [spec.workspace, home, self.run_folder(spec)],
            "shared_memory": "" if spec.uid is None else sharedmemory.FOLDER,  # everybody's: only for an own user
            "devices": list(DEVICES),
            "own_proc": True,
            # joblib's processes look at themselves in /proc, where only the kernel itself is visible
            "environment": {**variables, "JOBLIB_MULTIPROCESSING": "0"},
        }
