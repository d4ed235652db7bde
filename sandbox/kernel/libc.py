"""The few system calls Python does not wrap."""

from __future__ import annotations

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4

CAP_DAC_READ_SEARCH = 2
_MNT_DETACH, _CLOSE_RANGE = 2, 436  # the same on every architecture

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *arguments: object, what: str = "syscall") -> int:
    """Any system call; raises OSError."""
    return _checked(_LIBC.syscall(ctypes.c_long(number), *arguments), what)


def prctl(option: int, value: int, value2: int = 0) -> None:
    """prctl(2); raises OSError."""
    arguments = (ctypes.c_ulong(x) for x in (option, value, value2, 0, 0))
    _checked(_LIBC.prctl(*arguments), f"prctl({option}, {value})")


def unshare(flags: int) -> None:
    """unshare(2); raises OSError."""
    _checked(_LIBC.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError."""
    texts = [text.encode() if text else None for text in (source, target, kind, data)]
    _checked(_LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {kind or source} on {target}")


def umount(target: str) -> None:
    """Take a mount away at once, whoever still uses it; raises OSError."""
    _checked(_LIBC.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def close_from(first: int) -> None:
    """Close every descriptor from `first` on, however large its number; raises OSError."""
    syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0, what="close_range")


def map_ids(uid: int, gid: int) -> None:
    """In a new user namespace: be who one was."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def drop_bounding_set(keep: int | None = None) -> None:
    """No later exec may regain capabilities, but for `keep` (one of CAP_*). Needs CAP_SETPCAP to do anything."""
    for capability in range(64):
        if capability != keep:
            _LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the last one, and for ordinary users


def drop_capabilities(keep: int | None = None) -> None:
    """Give up every capability for good; `keep` (one of CAP_*) stays, also across exec. Raises OSError."""
    _LIBC.prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = 0 if keep is None else 1 << keep
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", mask, mask, mask, 0, 0, 0)
    _checked(_LIBC.capset(header, data), "capset")
    if keep is not None:
        prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, keep)
