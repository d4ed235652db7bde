"""One living kernel: launched, watched, frozen and killed as a whole."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import zmq.asyncio
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from sandbox.channels import Channels
from sandbox.errors import KernelStartError
from sandbox.provisioners.base import SandboxProvisioner
from sandbox.provisioners.spec import LaunchSpec
from sandbox.result import ExecutionStatus
from sandbox.workspace import remove_tree


@dataclass(frozen=True)
class KillReason:
    """Why a kernel had to die, for the result and for the agent."""

    status: ExecutionStatus
    text: str


CLOSED = KillReason(ExecutionStatus.DIED, "the session was closed")
CANCELLED = KillReason(ExecutionStatus.DIED, "the execution was cancelled")


class LiveKernel:
    """A kernel process with everything below it, and the channels to it."""

    def __init__(self, spec: LaunchSpec, provisioner: type[SandboxProvisioner], context: zmq.asyncio.Context) -> None:
        """Starts nothing."""
        self.spec = spec
        self.kill_reason: KillReason | None = None
        self._context = context
        kernel_spec = KernelSpec(argv=["python"], display_name="sandbox", language="python")
        self._manager = AsyncKernelManager(connection_file=f"{spec.control}/kernel.json", context=context)
        self._manager._kernel_spec = kernel_spec
        self.provisioner = provisioner(
            kernel_id=os.path.basename(spec.control), kernel_spec=kernel_spec, parent=self._manager
        )
        self.provisioner.spec = spec
        self._manager.provisioner = self.provisioner
        self._channels: Channels | None = None

    async def start(self) -> LiveKernel:
        """Launch and wait for the first answers. Raises KernelStartError, with nothing left behind."""
        os.makedirs(self.spec.control, mode=0o711, exist_ok=True)
        try:
            await self._manager.start_kernel()
            limits, key = self.spec.limits, self._manager.session.key
            self._channels = Channels(self._context, self._manager.ip, key, limits.message_mib)
            await self._channels.wait_ready(self.pidfd, limits.start_seconds)
            self.provisioner.kernel_pid()
        except BaseException as error:
            log = self.provisioner.log_tail()
            await asyncio.shield(self.close())
            if isinstance(error, (KernelStartError, OSError)):
                cause = f" ({log.splitlines()[-1]})" if log else ""
                raise KernelStartError(f"the kernel did not start: {error}{cause}\n{log}".strip()) from error
            raise
        return self

    @property
    def pid(self) -> int:
        """The launched process, ancestor of all others."""
        return self.provisioner.pid

    @property
    def pidfd(self) -> int:
        """Readable once `pid` is gone."""
        assert self.provisioner.pidfd is not None, "the kernel is not running"
        return self.provisioner.pidfd

    @property
    def channels(self) -> Channels:
        """Open from `start` to `close`."""
        assert self._channels is not None, "the kernel is not running"
        return self._channels

    def alive(self) -> bool:
        """Whether the launched process runs."""
        return self.provisioner.process is not None and self.provisioner.process.poll() is None

    async def kill(self, reason: KillReason) -> None:
        """End all its processes; the first reason given is kept."""
        self.kill_reason = self.kill_reason or reason
        await self.provisioner.kill()

    async def close(self) -> None:
        """Kill, close the channels, remove the control folder. May be called again."""
        await self.kill(CLOSED)
        if self._channels is not None:
            self._channels.close()
        await self.provisioner.cleanup()
        self.provisioner.process = None
        await asyncio.to_thread(remove_tree, self.spec.control)
