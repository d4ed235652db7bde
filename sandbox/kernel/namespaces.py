"""For forked kernels: namespaces and mounts of their own, as bubblewrap would make them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import struct
from typing import NoReturn

from . import libc
from .policy import KernelPolicy

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
SHM = "/dev/shm"
_TMPFS = libc.MS_NOSUID | libc.MS_NODEV


def enter_namespaces(policy: KernelPolicy) -> None:
    """Returns in a grandchild, inside new pid, net, ipc, uts and mount namespaces.

    The calling process stays outside as their monitor and ends when they end; its child is pid 1 inside,
    whose death the system turns into the death of everything there. Raises OSError.
    """
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    _unshare(policy)
    init = os.fork()
    if init:
        _wait_for(init)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    _loopback_up()
    _mount(policy)
    kernel = os.fork()
    if kernel:
        libc.drop_bounding_set()
        libc.drop_capabilities()
        libc.prctl(libc.PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _wait_for(kernel)


def mount_shared_memory(policy: KernelPolicy) -> bool:
    """A sized /dev/shm for this process and all below it, who share the rest with the host; whether that is allowed."""
    try:
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
        libc.mount("tmpfs", SHM, "tmpfs", _TMPFS, _size(policy))
    except OSError:
        return False
    return True


def _size(policy: KernelPolicy) -> str:
    return f"mode=1777,size={policy.tmp_bytes},nr_inodes={policy.tmp_files}"


def _unshare(policy: KernelPolicy) -> None:
    flags = libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWIPC | libc.CLONE_NEWNET | libc.CLONE_NEWUTS
    if policy.uid is not None:
        libc.unshare(flags)
        return
    uid, gid = os.getuid(), os.getgid()
    libc.unshare(flags | libc.CLONE_NEWUSER)
    libc.map_ids(uid, gid)


def _mount(policy: KernelPolicy) -> None:
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    kept = [(root, os.open(root, os.O_PATH)) for root in policy.visible_roots]
    libc.mount("tmpfs", "/tmp", "tmpfs", _TMPFS, _size(policy))
    for root, fd in kept:
        os.makedirs(os.path.dirname(root), 0o755, exist_ok=True)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(root, 0o755)
        else:
            os.close(os.open(root, os.O_CREAT | os.O_RDONLY, 0o644))
        libc.mount(f"/proc/self/fd/{fd}", root, flags=libc.MS_BIND)
        os.close(fd)
    libc.mount("tmpfs", SHM, "tmpfs", _TMPFS, _size(policy))
    for source, target in policy.mounts.items():
        libc.mount(source, target, flags=libc.MS_BIND)
    libc.mount("/dev/full", "/dev/zero", flags=libc.MS_BIND)  # reads the same, and gives no memory that nobody counts
    libc.mount("proc", "/proc", "proc", _TMPFS | libc.MS_NOEXEC)
    for name in ("tcp_rmem", "tcp_wmem"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
            file.write("4096 65536 212992")
    libc.mount("tmpfs", "/pool", "tmpfs", _TMPFS, "mode=0555,size=4096")  # covers the other kernels' folders


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _wait_for(child: int) -> NoReturn:
    """Collect the dead until `child` is among them, then end as it did."""
    libc.close_from(0)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
