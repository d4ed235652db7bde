"""bubblewrap, in which the fork server of level `namespace` lives: the command line, and what of it works here."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, replace

from sandbox.errors import KernelStartError
from sandbox.limits import MIB
from sandbox.provisioners.spec import python_roots

RUN, WORKSPACE, CODE, POOL = "/run/kernel", "/workspace", "/run/sandbox", "/pool"
_PROBE_SECONDS = 20.0
MERGED_USR = ("/lib", "/lib64", "/lib32", "/bin", "/sbin")
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


@dataclass(frozen=True)
class View:
    """Which files one bubblewrap shows."""

    shm_bytes: int
    tmp_bytes: int
    read_only: tuple[tuple[str, str], ...] = ()
    """(host path, path inside)."""
    folders: tuple[str, ...] = ()
    """Empty folders to mount on later."""


def build_command(features: Features, view: View, command: list[str]) -> list[str]:
    """The bubblewrap command line that runs `command`, which will make namespaces of its own."""
    made = {"/", "/tmp", "/usr", "/proc", "/dev", "/dev/shm"}
    links = [folder for folder in MERGED_USR if os.path.islink(folder)]
    plain = [folder for folder in MERGED_USR if os.path.isdir(folder) and folder not in links]
    result = [features.path, *_unshare(features), "--ro-bind", "/usr", "/usr"]
    for folder in links:
        result += ["--symlink", os.readlink(folder), folder]
    for folder in plain:
        result += ["--ro-bind", folder, folder]
    for path in _ETC:
        result += [*_parents(path, made), "--ro-bind-try", path, path]
    result += ["--proc", "/proc"] if features.proc else ["--perms", "0555", "--dir", "/proc"]
    result += ["--dev", "/dev", *_tmpfs("/dev/shm", view.shm_bytes)]
    result += [*_tmpfs("/tmp", view.tmp_bytes), *_parents(f"{_CPU}/x", made), "--ro-bind-try", _CPU, _CPU]
    for path in python_roots():  # after /tmp, below which a virtual environment may lie
        result += [*_parents(path, made), "--ro-bind", path, path]
    for folder in view.folders:
        result += _parents(f"{folder}/x", made)
    for source, target in view.read_only:
        result += [*_parents(target, made), "--ro-bind", source, target]
    return [*result, "--remount-ro", "/", "--chdir", "/", "--", *command]


def _unshare(features: Features) -> list[str]:
    result = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    result += ["--hostname", "sandbox", "--die-with-parent", "--new-session"]
    if not features.root:
        result += ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
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
    first_cause = ""
    for features in (best, replace(best, proc=False)):
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


def accounts(uid: int) -> dict[str, str]:
    """The few files of /etc a program needs to know who it is."""
    return {
        "passwd": f"sandbox:x:{uid}:{uid}::/tmp:/bin/sh\n",
        "group": f"sandbox:x:{uid}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
