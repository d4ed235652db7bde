"""Landlock by system call: what of the file system (and network, and signals) this process may still reach."""

from __future__ import annotations

import contextlib
import os
import stat
import struct

from . import libc
from .policy import KernelPolicy

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_ALL_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = EXECUTE | READ_FILE | READ_DIR
_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS, _SIGNALS = 3, 2
TRUNCATE_ABI, SIGNAL_SCOPE_ABI = 3, 6


def available_abi() -> int:
    """Version of the running kernel's Landlock; 0 = none."""
    try:
        return libc.syscall(_CREATE, None, 0, 1, what="landlock_create_ruleset")
    except OSError:
        return 0


def rights(abi: int) -> tuple[int, int, int]:
    """(file system, network, scope) bits that this version can restrict: all of them are."""
    files = _ALL_OF_ABI_1
    for since, bit in ((2, _REFER), (TRUNCATE_ABI, _TRUNCATE), (5, _IOCTL_DEV)):
        files |= bit if abi >= since else 0
    return files, _TCP if abi >= 4 else 0, _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= SIGNAL_SCOPE_ABI else 0


def confine_signals(outsider: int) -> bool:
    """Let this process and its children signal nobody but each other, for ever; whether that now holds.

    It is tried on `outsider`, the pid of a process that could be signalled before.
    """
    if available_abi() < SIGNAL_SCOPE_ABI:
        return False
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    ruleset = libc.syscall(_CREATE, struct.pack("=QQQ", 0, 0, _SIGNALS), 24, 0, what="landlock_create_ruleset")
    libc.syscall(_RESTRICT, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)
    try:
        os.kill(outsider, 0)
    except PermissionError:
        return True
    return False


def restrict(policy: KernelPolicy) -> int:
    """Allow only the paths of `policy`, for ever; returns the version used (0: none there, and none required)."""
    abi = available_abi()
    if policy.landlock_abi:
        abi = min(abi, policy.landlock_abi)
    if abi < 1:
        if policy.landlock == "require":
            raise OSError("this kernel has no landlock")
        return 0
    files, network, scope = rights(abi)
    if policy.network:
        network = 0
    attributes = struct.pack("=QQQ", files, network, scope)
    size = 8 if abi < 4 else 16 if abi < SIGNAL_SCOPE_ABI else 24
    ruleset = libc.syscall(_CREATE, attributes, size, 0, what="landlock_create_ruleset")
    for path in policy.read_only:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _allow(ruleset, path, _READ & files)
    for path in policy.writable:
        _allow(ruleset, path, files)
    for path in policy.devices:
        with contextlib.suppress(FileNotFoundError):
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | _TRUNCATE | _IOCTL_DEV) & files)
    if policy.list_root:
        _allow(ruleset, "/", READ_DIR)
    if policy.own_proc:
        _allow(ruleset, f"/proc/{os.getpid()}", _READ & files)
    libc.syscall(_RESTRICT, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _ON_FILES
        rule = struct.pack("=Qi", access, fd)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0, what=f"landlock rule for {path}")
    finally:
        os.close(fd)
