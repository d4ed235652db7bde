"""Kernels forked from a parent that has the libraries imported already; the same confinement as a cold start."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, ClassVar

from jupyter_client.connect import KernelConnectionInfo

from sandbox.errors import KernelStartError
from sandbox.isolation import IsolationLevel
from sandbox.kernel.policy import KernelPolicy
from sandbox.provisioners.base import SandboxProvisioner, children
from sandbox.provisioners.bubblewrap import RUN, WORKSPACE, namespace_policy, write_accounts
from sandbox.provisioners.forkserver import POOL, ForkedProcess
from sandbox.provisioners.process import LandlockProvisioner
from sandbox.provisioners.spec import LaunchSpec, python_roots


class ForkingProvisioner(SandboxProvisioner):
    """Asks the fork server of its `spec` instead of launching a command."""

    _policy: KernelPolicy | None = None

    def command(self, spec: LaunchSpec, policy: KernelPolicy) -> list[str]:
        """Nothing to execute: the policy goes through a socket."""
        self._policy = policy
        return []

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork."""
        if self.spec is None or self.spec.forkserver is None or self._policy is None:
            raise KernelStartError("this provisioner needs a fork server: use it through a KernelPool")
        self.pidfd = await self.spec.forkserver.spawn(self._policy)
        self.process = ForkedProcess(self.pidfd)
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class ZygoteProvisioner(ForkingProvisioner):
    """Level `namespace`: the parent lives in one bubblewrap, each fork makes namespaces and mounts of its own."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NAMESPACE

    def run_folder(self, spec: LaunchSpec) -> str:
        """As mounted."""
        return RUN

    def policy(self, spec: LaunchSpec) -> KernelPolicy:
        """The policy of a bubblewrap kernel, and what to mount where."""
        pool = os.path.dirname(os.path.dirname(spec.control))
        mounts = {f"{spec.control}/run": RUN, spec.workspace: WORKSPACE}
        mounts |= dict(write_accounts(f"{spec.control}/etc", 1000 if spec.uid is None else spec.uid))
        policy = namespace_policy(spec)
        return replace(
            policy,
            mounts={POOL + source.removeprefix(pool): target for source, target in mounts.items()},
            visible_roots=[root for root in python_roots() if root.startswith("/tmp/")],
        )

    def guardians(self) -> list[int]:
        """The monitor outside, pid 1 inside."""
        return [self.pid, *children(self.pid)[:1]]


class LandlockZygoteProvisioner(ForkingProvisioner, LandlockProvisioner):
    """Level `process`: the parent confines nothing, each fork confines itself."""
