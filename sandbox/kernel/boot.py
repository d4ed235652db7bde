"""First steps inside the sandbox: confine, then serve."""

from __future__ import annotations

import os
import select

from .hardening import harden
from .policy import KernelPolicy


def start(policy_file: str) -> None:
    """One kernel, cold: what the fork server does for many."""
    with open(policy_file, encoding="utf-8") as file:
        policy = KernelPolicy.from_json(file.read())
    _require_launcher()
    become_kernel(policy, policy.launcher)


def _require_launcher() -> None:
    """End if the process that holds the other end of stdin is gone.

    From here on everything around this process dies with that one; while it was being set up, nothing did.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        raise SystemExit("the launching process is gone")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def become_kernel(policy: KernelPolicy, launcher: int) -> None:
    """Confine this process for good and serve; any step that fails ends it. `launcher`: see `supervise`."""
    os.environ.clear()
    os.environ.update(policy.environment)
    if policy.supervise:
        from .supervisor import supervise

        supervise(launcher)
    harden(policy)
    from . import app

    app.run(policy)
