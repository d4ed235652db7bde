"""Telling the processes of one machine apart, for files that they share."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def this_process() -> str:
    """Name of this process, `host:pid:started`: process ids alone are used again, most of all in containers."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def alive(process: str) -> bool:
    """Whether the process of that name may still be running; one on another host is taken to be."""
    host, pid, started = process.rsplit(":", 2)
    return host != socket.gethostname() or _started(int(pid)) == started


def _started(pid: int) -> str:
    """When process `pid` began, in clock ticks since boot; empty if it is gone (or there is no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time through; `path` is an empty file for nothing else."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
