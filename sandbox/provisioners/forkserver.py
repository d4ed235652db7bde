"""The host's side of the fork server: one parent with libraries imported, one fork per kernel."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from sandbox.errors import KernelStartError
from sandbox.kernel.policy import KernelPolicy
from sandbox.limits import MIB
from sandbox.provisioners.base import popen, tails, wait_readable
from sandbox.provisioners.bubblewrap import CODE, RUN, WORKSPACE, Features, View, build_command, write_accounts
from sandbox.provisioners.spec import KERNEL_PACKAGE, environment

POOL = "/pool"
_IMPORT_SECONDS, _FORK_SECONDS = 180.0, 20.0
_MESSAGE_BYTES = 65_536


class ForkedProcess:
    """The part of Popen a provisioner needs, for a process that is somebody else's child."""

    stdin = stdout = stderr = None

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            self.pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it lives; its exit status belongs to its parent, so -1 after that."""
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            if poller.poll(0):
                self.returncode = -1
        return self.returncode


class ForkServer:
    """Started once per pool, and again should it die; its kernels die with it."""

    def __init__(self, folder: str, preload: Sequence[str], features: Features | None) -> None:
        """`folder`: the pool's; `features`: of bubblewrap, None = without namespaces."""
        self._folder, self._preload, self._features = folder, list(preload), features
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Launch it and wait until everything is imported. Raises KernelStartError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        log_path = f"{self._folder}/forkserver.log"
        try:
            with theirs:
                self._process = self._launch(theirs.fileno(), log_path)
            await self._receive(_IMPORT_SECONDS)
        except (KernelStartError, OSError) as error:
            await self.close()
            last = "\n".join(tails((log_path,))).splitlines()[-1:]
            raise KernelStartError(f"the fork server did not start: {' '.join([str(error), *last])}") from error

    def _launch(self, fd: int, log_path: str) -> subprocess.Popen[bytes]:
        config = {"fd": fd, "preload": self._preload, "environment": environment(1, "/tmp"), "parent": os.getpid()}
        code = KERNEL_PACKAGE if self._features is None else f"{CODE}/kernel"
        config["namespaces"] = self._features is not None
        command = [sys.executable, "-I", f"{code}/__main__.py", "forkserver", json.dumps(config)]
        if self._features is not None:
            view = View(
                shm_bytes=MIB,
                tmp_bytes=64 * MIB,
                read_only=(
                    *write_accounts(f"{self._folder}/etc", 0 if self._features.root else 1000),
                    (KERNEL_PACKAGE, code),
                ),
                writable=((self._folder, POOL),),
                folders=(RUN, WORKSPACE),
            )
            command = build_command(self._features, view, command, nested=True)
        return popen(command, log_path, pass_fds=(fd,))

    async def spawn(self, policy: KernelPolicy) -> int:
        """Fork a kernel; returns its pidfd, which the caller owns. Raises KernelStartError."""
        exchange = asyncio.get_running_loop().create_task(self._exchange(policy))
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            exchange.add_done_callback(_kill_orphan)
            raise

    async def _exchange(self, policy: KernelPolicy) -> int:
        async with self._turn:
            if self._process is None or self._process.poll() is not None:
                await self.close()
                await self.start()
            assert self._socket is not None
            try:
                self._socket.send(policy.to_json().encode())
                return await self._receive(_FORK_SECONDS)
            except OSError as error:
                raise KernelStartError(f"the fork server died: {error}") from error

    async def _receive(self, seconds: float) -> int:
        """The descriptor in the next message, -1 if it has none."""
        assert self._socket is not None
        if not await wait_readable(self._socket.fileno(), seconds):
            raise KernelStartError(f"the fork server did not answer within {seconds:g} s")
        data, ancillary, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(4))
        if not data:
            raise KernelStartError("the fork server ended")
        answer = json.loads(data)
        if "error" in answer:
            raise KernelStartError(f"the fork server could not fork: {answer['error']}")
        return array.array("i", ancillary[0][2])[0] if ancillary else -1

    async def close(self) -> None:
        """Kill it and all its kernels. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _kill_orphan(exchange: asyncio.Task[int]) -> None:
    """Nobody waits for this kernel any more."""
    if not exchange.cancelled() and exchange.exception() is None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(exchange.result(), signal.SIGKILL)
        os.close(exchange.result())
