"""The levels as plain Jupyter provisioners: any kernel manager can use them, nothing else of this package is needed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from typing import Any, ClassVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerBase

from sandbox.isolation import IsolationLevel
from sandbox.limits import ResourceLimits
from sandbox.live import CLOSED, LiveKernel, connection_file
from sandbox.provisioners.choice import Choice, prepare
from sandbox.provisioners.forkserver import wait_readable
from sandbox.provisioners.spec import LaunchSpec
from sandbox.users import pick_user, user_base
from sandbox.workspace import remove_tree


class SandboxProvisioner(KernelProvisionerBase):
    """One kernel with a fork server and a temporary workspace of its own."""

    level: ClassVar[IsolationLevel] = IsolationLevel.PROCESS
    _kernel: LiveKernel | None = None
    _choice: Choice | None = None
    _folder = ""
    _generation = 1

    def __init__(self, **kwargs: Any) -> None:
        """As KernelProvisionerBase."""
        super().__init__(**kwargs)
        self._uid = pick_user(0, user_base())

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """The kernel spec's command is not used."""
        kwargs.pop("independent", None)
        return {**await super().pre_launch(**kwargs), "cmd": []}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork; returns how to reach it, a second time as the first. Raises KernelStartError or OSError."""
        if self._choice is None:
            self._folder = tempfile.mkdtemp(prefix="mx-", dir="/tmp")
            os.chmod(self._folder, 0o711)
            self._choice = await prepare(self.level, self._folder, ())
            os.mkdir(f"{self._folder}/0", 0o711)
            info = json.loads(connection_file(secrets.token_hex(32), self._folder))
            self.connection_info = {**info, "key": info["key"].encode()}
        spec = LaunchSpec(ResourceLimits(), f"{self._folder}/0", self._generation, uid=self._uid)
        self._generation += 1
        self._kernel = LiveKernel(spec, self._choice)
        self._kernel.key = self.connection_info["key"].decode()
        await self._kernel.launch()
        for number in range(1, 6):
            link = f"{self._folder}/k-{number}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
            os.symlink(f"/proc/{os.getpid()}/fd/{self._kernel.storage}/{spec.run}/k-{number}", link)
        return self.connection_info

    @property
    def has_process(self) -> bool:
        """Whether it was launched."""
        return self._kernel is not None

    async def poll(self) -> int | None:
        """None while it lives; its exit status belongs to the fork server, so -1 after that."""
        return None if self._kernel is not None and self._kernel.alive() else -1

    async def wait(self) -> int | None:
        """Until it is gone."""
        if self._kernel is not None and self._kernel.alive():
            await wait_readable(self._kernel.pidfd, 60.0)
        return -1

    async def send_signal(self, signum: int) -> None:
        """To the kernel itself."""
        if self._kernel is not None:
            self._kernel.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End every process of the kernel."""
        if self._kernel is not None:
            await self._kernel.kill(CLOSED)

    async def terminate(self, restart: bool = False) -> None:
        """There is nothing worth a polite goodbye inside."""
        await self.kill(restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the kernel; and where no other follows, everything."""
        if self._kernel is not None:
            await self._kernel.close()
            self._kernel = None
        if self._choice is not None and not restart:
            await self._choice.close()
            self._choice = None
            remove_tree(self._folder)


class NamespaceProvisioner(SandboxProvisioner):
    """Level `namespace`."""

    level: ClassVar[IsolationLevel] = IsolationLevel.NAMESPACE
