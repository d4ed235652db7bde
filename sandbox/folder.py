"""The pool's folder on the host: locked while its trainer lives, swept by the next one when it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import tempfile
import time

from sandbox.users import user_base
from sandbox.workspace import remove_tree

_PREFIX = "mappa-sandbox-"
_DRAFT_SECONDS = 600.0
_MAX_BASE = 60
"""Characters of the base folder that leave room for a unix socket's path."""

log = logging.getLogger(__name__)


class PoolFolder:
    """A private folder with a lock in it that the system releases when this process dies, however it dies."""

    def __init__(self, base: str | None = None) -> None:
        """Create it below `base` (None: the system's temporary folder)."""
        self.user_base = user_base()
        """First of the users of this pool's kernels, see `sandbox.users`."""
        self.base = base or tempfile.gettempdir()
        if len(self.base) > _MAX_BASE:
            self.base = "/tmp"
        draft = tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=self.base)
        os.chmod(draft, 0o711)
        self._lock = os.open(f"{draft}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = f"{self.base}/{_PREFIX}{secrets.token_hex(4)}"
        os.rename(draft, self.path)  # only now can a sweep see it, locked

    def close(self) -> None:
        """Remove it with everything in it."""
        remove_tree(self.path)
        os.close(self._lock)


def sweep(base: str) -> int:
    """Remove the folders that killed trainers of this user left below `base`; returns how many."""
    removed = 0
    with os.scandir(base) as entries:
        found = [e for e in entries if e.name.startswith((_PREFIX, f".{_PREFIX}")) and e.is_dir(follow_symlinks=False)]
    for entry in found:
        with contextlib.suppress(OSError):
            info = entry.stat(follow_symlinks=False)
            if info.st_uid != os.geteuid():
                continue
            if entry.name.startswith("."):
                abandoned = time.time() - info.st_mtime > _DRAFT_SECONDS
            else:
                abandoned = _unlocked(f"{entry.path}/lock")
            if abandoned:
                remove_tree(entry.path)
                removed += 1
    if removed:
        log.info("removed %d sandbox folders of trainers that were killed", removed)
    return removed


def _unlocked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
