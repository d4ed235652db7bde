"""Unprivileged users for kernels that a root trainer starts."""

from __future__ import annotations

import os
import secrets

USERS = 4096
"""Uids of one pool; more sessions than that share some."""


def pick_user(slot: int, base: int | None) -> int | None:
    """A uid (and gid) for kernel number `slot`; None when the kernel must stay who the trainer is."""
    return None if base is None else base + slot % USERS


def user_base() -> int | None:
    """First of `USERS` uids nobody else is likely to use.

    None for an ordinary user, and for a root who has no other users (rootless containers).
    """
    if os.geteuid() != 0:
        return None
    size = _mapped_users()
    if size >= 1 << 30:
        return (1 << 28) + secrets.randbelow(1 << 16) * USERS
    if size >= 65_536:
        return 20_000 + secrets.randbelow(8) * USERS
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
