"""Without a pid namespace: a parent that stays outside the confinement and takes every descendant down."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from . import landlock, libc


def supervise(launcher: int, uid: int | None) -> None:
    """Fork; the child returns and becomes the kernel, the parent never returns.

    The parent adopts everything the kernel leaves behind (subreaper). When the kernel ends, when SIGTERM
    asks, or when its own parent dies, it kills all descendants until none is left, and exits. That parent
    must be the process `launcher`: another one means that it died before this could be arranged. `uid`: the
    user the kernel will be, who has no other processes; None = the caller.
    """
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
    watched = (signal.SIGTERM, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != launcher:
        os._exit(1)
    apart = landlock.confine_signals(launcher)
    kernel = os.fork()
    if kernel == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        return
    status = 0
    try:
        status = _watch(kernel, watched)
    finally:
        end_descendants(uid, apart)
        os._exit(status)


def _watch(kernel: int, watched: tuple[signal.Signals, ...]) -> int:
    """Until the kernel ends (its exit status) or SIGTERM comes (0)."""
    while signal.sigwait(watched) != signal.SIGTERM:
        status = _reap(kernel)
        if status is not None:
            return status
    return 0


def _reap(kernel: int) -> int | None:
    """Collect dead children; the exit status of the kernel (128 + signal) if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == kernel and not os.WIFSTOPPED(code):  # a traced child reports stops too
                code = os.waitstatus_to_exitcode(code)
                status = code if code >= 0 else 128 - code
    return status


def end_descendants(uid: int | None, apart: bool, seconds: float = 30.0) -> None:
    """Kill everything below this process, until nothing is left.

    One kill(-1) reaches all at once, so that no fork can race it: where signals leave this tree for nobody (`apart`),
    or as `uid`. Else each is stopped, then killed, which a fork bomb may outrun for a while.
    """
    deadline = time.monotonic() + seconds
    while (below := descendants(os.getpid())) and time.monotonic() < deadline:
        if apart:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        elif uid is not None:
            _kill_user(uid)
        else:
            for order in (signal.SIGSTOP, signal.SIGKILL):
                for pid in below:
                    with contextlib.suppress(OSError):
                        os.kill(pid, order)
        _reap(0)
        time.sleep(0.002)


def _kill_user(uid: int) -> None:
    """Every process of `uid`, by one that becomes `uid` for it."""
    helper = os.fork()
    if helper == 0:
        with contextlib.suppress(OSError):
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(helper, 0)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first; dead ones that nobody collected included."""
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children(queue.pop())
        found += below
        queue += below
    return found


def children(pid: int) -> list[int]:
    """Direct children of a process; empty once it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
    return found
