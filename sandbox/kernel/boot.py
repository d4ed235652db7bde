"""First steps inside the sandbox: confine, then serve."""

from __future__ import annotations

import json
import os

from .hardening import harden
from .policy import KernelPolicy


def main(role: str, argument: str) -> None:
    """`kernel <policy file>`: one kernel, cold. `forkserver <JSON>`: the pre-forked parent of many."""
    if role == "kernel":
        with open(argument, encoding="utf-8") as file:
            become_kernel(KernelPolicy.from_json(file.read()))
    elif role == "forkserver":
        from .forkserver import serve

        serve(json.loads(argument))
    else:
        raise SystemExit(f"unknown role {role!r}")


def become_kernel(policy: KernelPolicy) -> None:
    """Confine this process for good and serve; any step that fails ends it."""
    os.environ.clear()
    os.environ.update(policy.environment)
    if policy.supervise:
        from .supervisor import supervise

        supervise()
    harden(policy)
    from . import app

    app.run(policy)
