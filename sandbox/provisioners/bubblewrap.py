"""Level `namespace` through bubblewrap: the command line, what of it works here, and the provisioner."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sandbox.errors import KernelStartError
from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.limits import MIB
from sandbox.provisioners.base import SandboxProvisioner, children
from sandbox.provisioners.process import DEVICES
from sandbox.provisioners.spec import KERNEL_PACKAGE, LaunchSpec, base_policy, python_roots

RUN, WORKSPACE, CODE = "/run/kernel", "/workspace", "/run/sandbox"
_PROBE_SECONDS = 20.0
_MERGED_USR = ("/lib", "/lib64", "/lib32", "/bin", "/sbin")
_ETC = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/fonts", "/etc/mime.types")
_CPU = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Features:
    """What bubblewrap can do on this machine, found by `probe`."""

    path: str
    root: bool
    """The caller is root: no user namespace is made, and the kernel changes its user itself."""
    proc: bool = True
    """A fresh /proc can be mounted (some containers forbid it)."""
    no_nesting: bool = True
    """Further user namespaces can be forbidden (bubblewrap >= 0.8)."""


@dataclass(frozen=True)
class View:
    """Which files one bubblewrap shows."""

    shm_bytes: int
    tmp_bytes: int
    read_only: tuple[tuple[str, str], ...] = ()
    """(host path, path inside)."""
    writable: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    """Empty folders to mount on later."""


def build_command(features: Features, view: View, command: list[str], *, nested: bool = False) -> list[str]:
    """The bubblewrap command line that runs `command`; nested: it will make namespaces of its own (fork server)."""
    made = {"/", "/tmp", "/usr", "/etc", "/proc", "/dev", "/dev/shm"}
    links = [folder for folder in _MERGED_USR if os.path.islink(folder)]
    plain = [folder for folder in _MERGED_USR if os.path.isdir(folder) and folder not in links]
    result = [features.path, *_unshare(features, nested), "--ro-bind", "/usr", "/usr"]
    for folder in links:
        result += ["--symlink", os.readlink(folder), folder]
    for folder in plain:
        result += ["--ro-bind", folder, folder]
    for path in _ETC:
        result += ["--ro-bind-try", path, path]
    result += ["--proc", "/proc"] if features.proc else ["--perms", "0555", "--dir", "/proc"]
    result += ["--dev", "/dev", *_tmpfs("/dev/shm", view.shm_bytes)]
    if not nested:  # a nested mount point on it would be refused
        result += ["--remount-ro", "/dev"]
    result += [*_tmpfs("/tmp", view.tmp_bytes), *_parents(f"{_CPU}/x", made), "--ro-bind-try", _CPU, _CPU]
    for root in python_roots():  # after /tmp, below which a virtual environment may lie
        result += [*_parents(root, made), "--ro-bind", root, root]
    for folder in view.folders:
        result += _parents(f"{folder}/x", made)
    for source, target in view.read_only:
        result += [*_parents(target, made), "--ro-bind", source, target]
    for source, target in view.writable:
        result += [*_parents(target, made), "--bind", source, target]
    return [*result, "--remount-ro", "/", "--chdir", "/", "--", *command]


def _unshare(features: Features, nested: bool) -> list[str]:
    result = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    result += ["--hostname", "sandbox", "--die-with-parent", "--new-session"]
    if not features.root:
        result += ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        if features.no_nesting and not nested:
            result += ["--disable-userns"]
    elif not nested:
        result += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        result += ["--cap-add", "CAP_SETPCAP"]
    return result


def _tmpfs(path: str, size: int) -> list[str]:
    return ["--size", str(size), "--perms", "1777", "--tmpfs", path]


def _parents(path: str, made: set[str]) -> list[str]:
    """Parent folders that everybody may pass; bubblewrap itself would make them 0700."""
    result: list[str] = []
    folder = ""
    for part in path.strip("/").split("/")[:-1]:
        folder += f"/{part}"
        if folder not in made:
            made.add(folder)
            result += ["--perms", "0755", "--dir", folder]
    return result


async def probe() -> Features:
    """The strongest variant that runs, by running the real command line. Raises KernelStartError with the cause."""
    path = shutil.which("bwrap")
    if path is None:
        raise KernelStartError("bubblewrap is not installed")
    best = Features(path, os.geteuid() == 0)
    variants = [best, replace(best, no_nesting=False), replace(best, proc=False)]
    variants.append(replace(best, proc=False, no_nesting=False))
    first_cause = ""
    for features in variants:
        command = build_command(features, View(MIB, MIB), ["/bin/true"])
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, stderr = await asyncio.wait_for(process.communicate(), _PROBE_SECONDS)
        except TimeoutError:
            process.kill()
            raise KernelStartError("bubblewrap hangs") from None
        if process.returncode == 0:
            return features
        lines = stderr.decode("utf-8", "replace").strip().splitlines()
        first_cause = first_cause or (lines[-1] if lines else f"bubblewrap ended with {process.returncode}")
    raise KernelStartError(first_cause)


def namespace_policy(spec: LaunchSpec) -> KernelPolicy:
    """Confinement inside the namespaces: the same tools again, as a second wall."""
    return base_policy(
        spec,
        run_folder=RUN,
        working_dir=WORKSPACE,
        home="/tmp",
        landlock="try",
        read_only=["/usr", *_MERGED_USR, "/etc", "/proc", "/dev", "/sys", CODE, *python_roots()],
        writable=[WORKSPACE, RUN, "/tmp", "/dev/shm"],
        devices=[*DEVICES, "/dev/tty"],
        list_root=True,
        network=True,
    )


def accounts(uid: int) -> dict[str, str]:
    """The few files of /etc a program needs to know who it is."""
    return {
        "passwd": f"sandbox:x:{uid}:{uid}::/tmp:/bin/sh\n",
        "group": f"sandbox:x:{uid}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }


def write_accounts(folder: str, uid: int) -> tuple[tuple[str, str], ...]:
    """Write `accounts` below `folder`; returns where each belongs."""
    os.makedirs(folder, exist_ok=True)
    for name, text in accounts(uid).items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{folder}/{name}", 0o644)
    return tuple((f"{folder}/{name}", f"/etc/{name}") for name in accounts(uid))


class BubblewrapProvisioner(SandboxProvisioner):
    """One bubblewrap per kernel; every kernel imports its libraries itself."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NAMESPACE
    features: Features | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Find out what bubblewrap can do, unless the session has said."""
        self.features = self.spec.features if self.spec is not None else None
        self.features = self.features or await probe()
        return await super().pre_launch(**kwargs)

    def run_folder(self, spec: LaunchSpec) -> str:
        """As mounted."""
        return RUN

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """See `namespace_policy`."""
        return namespace_policy(spec)

    def command(self, spec: LaunchSpec, policy: KernelPolicy) -> list[str]:
        """See `build_command`."""
        assert self.features is not None
        uid = 1000 if spec.uid is None else spec.uid
        view = View(
            shm_bytes=spec.limits.tmp_mib * MIB,
            tmp_bytes=spec.limits.tmp_mib * MIB,
            read_only=(
                *write_accounts(f"{spec.control}/etc", uid),
                (KERNEL_PACKAGE, f"{CODE}/kernel"),
                (f"{spec.control}/policy.json", f"{CODE}/policy.json"),
            ),
            writable=((f"{spec.control}/run", RUN), (spec.workspace, WORKSPACE)),
        )
        inside = [sys.executable, "-I", f"{CODE}/kernel/__main__.py", "kernel", f"{CODE}/policy.json"]
        return build_command(self.features, view, inside)

    def guardians(self) -> list[int]:
        """bubblewrap outside, bubblewrap as pid 1 inside."""
        return [self.pid, *children(self.pid)[:1]]
