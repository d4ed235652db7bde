"""What each isolation level allows a kernel, where its files lie, and how all of it dies."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.kernel.supervisor import children
from sandbox.provisioners.bubblewrap import CODE, MERGED_USR, POOL, RUN, WORKSPACE, accounts
from sandbox.provisioners.spec import KERNEL_PACKAGE, LaunchSpec, base_policy, environment, python_roots
from sandbox.users import reachable_by_others
from sandbox.workspace import remove_tree

DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
"""Not /dev/zero: memory mapped from it is seen by no limit."""
_SUN_PATH = 107
_SYSTEM = (
    *("/usr", *MERGED_USR),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/fonts", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/version"),
    *("/proc/filesystems", "/proc/sys/kernel", "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu"),
    *(f"/sys/fs/cgroup/{name}" for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")),
)


class Plain:
    """Resource limits, a clean environment, an unprivileged user where the trainer is root; nothing more."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NONE
    kill_seconds: ClassVar[float] = 40.0
    """How long a kernel may take to die; its supervisor, without which a fork bomb would be nobody's, has 30."""
    variables: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Of the environment; set before anything is preloaded, since libraries read them once."""
    pretend_abi: ClassVar[int] = 0
    """Act as on a kernel with an older Landlock (tests); 0 = use what there is."""

    def run_folder(self, spec: LaunchSpec) -> str:
        """The folder with the sockets, as the kernel sees it."""
        return f"{spec.folder}/{spec.run}"

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """The confinement of this kernel."""
        home = f"{spec.folder}/tmp{spec.generation}"
        return base_policy(
            spec,
            run_folder=self.run_folder(spec),
            working_dir=f"{spec.folder}/ws",
            home=home,
            supervise=True,
            own_pid_namespace=False,
            read_anywhere=spec.uid is not None and not reachable_by_others([*python_roots(), KERNEL_PACKAGE]),
            **self.confinement(spec, home),
        )

    def confinement(self, spec: LaunchSpec, home: str) -> dict[str, Any]:
        """What is added to the limits."""
        return {"landlock": "off", "seccomp": False}

    def order(self, spec: LaunchSpec, connection: str) -> dict[str, Any]:
        """What the fork server is told, once the folders are made. Raises ValueError for too long a path."""
        if len(self.run_folder(spec)) + 4 > _SUN_PATH:
            raise ValueError(f"too long for unix sockets, choose a shorter base folder: {spec.folder}")
        policy = self.policy(spec)
        for folder in (f"{spec.folder}/ws", self.run_folder(spec), policy.home):
            os.makedirs(folder, 0o700, exist_ok=True)
        with open(policy.connection_file, "w", encoding="utf-8") as file:
            file.write(connection)
        for path in (f"{spec.folder}/ws", self.run_folder(spec), policy.home, policy.connection_file):
            if spec.uid is not None:
                os.chown(path, spec.uid, spec.uid)
        return {"policy": policy.to_json()}

    def storage(self, spec: LaunchSpec, received: list[int]) -> int:
        """Descriptor, the caller's, of the folder that holds the workspace (`ws`) and the kernel's `run` folder."""
        return os.open(spec.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def guardians(self, pid: int) -> list[int]:
        """Processes of ours between the launched one and the kernel: never frozen, pid 1 last."""
        return [pid]

    def begin_kill(self, pid: int) -> None:
        """Order the death of everything, without waiting: the supervisor kills every descendant and then ends."""
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)

    def clean(self, spec: LaunchSpec) -> None:
        """Remove what the dead kernel `spec` leaves beside the workspace."""
        for name in (spec.run, f"tmp{spec.generation}"):
            remove_tree(f"{spec.folder}/{name}")


class Landlock(Plain):
    """Landlock and seccomp where namespaces cannot be had, as in most containers."""

    level: ClassVar[IsolationLevel] = IsolationLevel.PROCESS
    # joblib's processes look at themselves in /proc, where only the kernel itself is visible
    variables: ClassVar[Mapping[str, str]] = MappingProxyType({"JOBLIB_MULTIPROCESSING": "0"})

    def confinement(self, spec: LaunchSpec, home: str) -> dict[str, Any]:
        """Read the system and the interpreter; write the workspace, a private temporary folder and the sockets."""
        return {
            "landlock": "require",
            "landlock_abi": self.pretend_abi,
            "read_only": [*_SYSTEM, KERNEL_PACKAGE, *python_roots()],
            "writable": [f"{spec.folder}/ws", home, self.run_folder(spec)],
            "devices": list(DEVICES),
            "own_proc": True,
            "environment": {**environment(spec.limits.cpus, home), **self.variables},
        }


class Namespaces(Plain):
    """Namespaces and mounts of its own for each kernel; inside them the same tools again, as a second wall."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NAMESPACE
    kill_seconds: ClassVar[float] = 10.0

    def run_folder(self, spec: LaunchSpec) -> str:
        """As mounted."""
        return RUN

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """See the class."""
        storage = f"{POOL}/{spec.slot}"
        mounts = {f"{storage}/{spec.run}": RUN, f"{storage}/ws": WORKSPACE}
        mounts |= {f"{storage}/etc/{name}": f"/etc/{name}" for name in accounts(0)}
        return base_policy(
            spec,
            run_folder=RUN,
            working_dir=WORKSPACE,
            home="/tmp",
            landlock="try",
            read_only=["/usr", *MERGED_USR, "/etc", "/proc", "/dev/fd", "/sys", CODE, *python_roots()],
            writable=[WORKSPACE, RUN, "/tmp", "/dev/shm"],
            devices=[*DEVICES, "/dev/zero", "/dev/tty"],  # its /dev/zero is another one
            list_root=True,
            network=True,
            mounts=mounts,
            visible_roots=[root for root in python_roots() if root.startswith("/tmp/")],
            tmp_files=spec.limits.workspace_files,
        )

    def order(self, spec: LaunchSpec, connection: str) -> dict[str, Any]:
        """Nothing lies on the host: the fork server keeps the session's files in memory, sized."""
        uid = 1000 if spec.uid is None else spec.uid
        return {
            "policy": self.policy(spec).to_json(),
            "storage": {
                "name": str(spec.slot),
                "run": spec.run,
                "bytes": spec.limits.workspace_mib << 20,
                "files": spec.limits.workspace_files,
                "uid": spec.uid,
                "etc": accounts(uid),
                "connection": connection,
            },
        }

    def storage(self, spec: LaunchSpec, received: list[int]) -> int:
        """Came with the kernel."""
        return received[0]

    def guardians(self, pid: int) -> list[int]:
        """The monitor outside, pid 1 inside."""
        return [pid, *children(pid)[:1]]

    def begin_kill(self, pid: int) -> None:
        """Pid 1 of the namespaces takes all with it."""
        with contextlib.suppress(OSError):
            os.kill(self.guardians(pid)[-1], signal.SIGKILL)

    def clean(self, spec: LaunchSpec) -> None:
        """Everything lies in the session's storage."""
