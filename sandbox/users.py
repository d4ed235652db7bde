"""Unprivileged users for kernels that a root trainer starts."""

from __future__ import annotations

import os
import secrets


def pick_user(slot: int, base: int | None = None) -> int | None:
    """A uid (and gid) for kernel number `slot`; None when this process is not root and must stay who it is.

    `base` comes from `user_base`; None draws a fresh one.
    """
    if os.geteuid() != 0:
        return None
    start, count = base if base is not None else user_base(), 4096
    return None if start is None else start + slot % count


def user_base() -> int | None:
    """First of 4096 uids nobody else is likely to use; None where only one user is mapped (rootless containers)."""
    size = _mapped_users()
    if size >= 1 << 30:
        return (1 << 28) + secrets.randbelow(1 << 16) * 4096
    if size >= 65_536:
        return 20_000 + secrets.randbelow(8) * 4096
    return None


def _mapped_users() -> int:
    """How many uids, counted from 0, exist in this user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        rows = [[int(x) for x in line.split()] for line in file]
    return max((count for first, _, count in rows if first == 0), default=0)


def reachable_by_others(paths: list[str]) -> bool:
    """Whether every user may pass through to all of `paths` (a Python below /root, mode 0700, is not)."""
    for path in paths:
        folder = os.path.abspath(path)
        while folder != "/":
            if not os.stat(folder).st_mode & 0o001:
                return False
            folder = os.path.dirname(folder)
    return True
