"""The files of a session, in memory, sized: made by the fork server with namespaces, shown to one session's kernels.

Bytes and number of files are bounded by the file system itself, so nothing that code does with them has to be found
and counted. They outlive a kernel, and vanish with the fork server.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from . import libc

_POOL = "/pool"
_FLAGS = libc.MS_NOSUID | libc.MS_NODEV
_RUN_BYTES, _RUN_FILES = 1 << 20, 64
"""For the sockets and the log of one kernel: apart from the workspace, which code may fill."""


def prepare() -> None:
    """Give this process the right to mount (an ordinary user: in a user namespace of its own), and a place for it."""
    if os.getuid():
        uid, gid = os.getuid(), os.getgid()
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
        libc.map_ids(uid, gid)
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount("tmpfs", _POOL, "tmpfs", _FLAGS, "mode=0711,size=64m")


def lay_out(order: dict[str, Any]) -> int:
    """Make what one kernel needs, in the session's folder; returns a descriptor of the latter. Raises OSError."""
    path, uid = f"{_POOL}/{order['name']}", order["uid"]
    if not os.path.isdir(path):
        os.makedirs(f"{path}/etc", 0o711)
        for name, text in order["etc"].items():
            _write(f"{path}/etc/{name}", text, 0o644, None)
        _mount(f"{path}/ws", uid, order["bytes"], order["files"])
    _unmount([f"{path}/{name}" for name in os.listdir(path) if name.startswith("run")])
    run = f"{path}/{order['run']}"
    _mount(run, uid, _RUN_BYTES, _RUN_FILES)
    _write(f"{run}/kernel.json", order["connection"], 0o600, uid)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _mount(path: str, uid: int | None, size: int, files: int) -> None:
    os.mkdir(path, 0o700)
    owner = "" if uid is None else f",uid={uid},gid={uid}"
    libc.mount("tmpfs", path, "tmpfs", _FLAGS, f"mode=0700,size={size},nr_inodes={files + 1}{owner}")


def _unmount(paths: list[str]) -> None:
    """Whatever still has them open keeps their files until then."""
    for path in paths:
        libc.umount(path)
        os.rmdir(path)


def _write(path: str, text: str, mode: int, uid: int | None) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        if uid is not None:
            os.fchown(file.fileno(), uid, uid)


def forget(name: str) -> None:
    """Give up a session's files. Raises OSError."""
    path = f"{_POOL}/{name}"
    if os.path.isdir(path):
        _unmount([f"{path}/{found}" for found in os.listdir(path) if found != "etc"])
        shutil.rmtree(path)
