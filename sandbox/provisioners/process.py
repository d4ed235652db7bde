"""Kernels without namespaces: `LandlockProvisioner` (level `process`) and `PlainProvisioner` (level `none`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import ClassVar

from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.provisioners.base import KERNEL_PACKAGE, LaunchSpec, SandboxProvisioner, base_policy, python_roots
from sandbox.users import reachable_by_others


class PlainProvisioner(SandboxProvisioner):
    """Resource limits, a clean environment, an unprivileged user where the trainer is root; nothing more."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NONE
    confinement: ClassVar[dict[str, object]] = {"landlock": "off", "seccomp": False}

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """Limits and a supervisor."""
        home = f"{spec.control}/tmp"
        os.makedirs(home, mode=0o700, exist_ok=True)
        if spec.uid is not None:
            os.chown(home, spec.uid, spec.uid)
        return base_policy(
            spec,
            run_folder=self.run_folder(spec),
            working_dir=spec.workspace,
            home=home,
            supervise=True,
            own_pid_namespace=False,
            read_anywhere=spec.uid is not None and not reachable_by_others([*python_roots(), KERNEL_PACKAGE]),
            # without an own uid this limit counts every process of the user: the watchdog counts instead
            **({} if spec.uid is not None else {"processes": 0}),
            **self.confinement,
        )

    def command(self, spec: LaunchSpec, policy: KernelPolicy) -> list[str]:
        """The interpreter, isolated from environment and user site."""
        return [sys.executable, "-I", f"{KERNEL_PACKAGE}/__main__.py", "kernel", f"{spec.control}/policy.json"]

    def begin_kill(self) -> None:
        """Ask the supervisor, which kills every descendant and then ends."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGTERM)
