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
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.errors import KernelStartError
from sandbox.limits import MIB
from sandbox.provisioners.bubblewrap import CODE, POOL, RUN, WORKSPACE, Features, View, build_command
from sandbox.provisioners.spec import KERNEL_PACKAGE, environment
from sandbox.workspace import tail

_IMPORT_SECONDS, _FORK_SECONDS = 180.0, 20.0
_MESSAGE_BYTES = 65_536
_ETC = ("passwd", "group", "hosts", "nsswitch.conf")


def exit_seen(pidfd: int) -> bool:
    """Whether that process is gone."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def process_of(pidfd: int) -> int:
    """Its number."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


async def wait_readable(fd: int, seconds: float) -> bool:
    """Whether `fd` became readable (a pidfd: its process ended) in time, without blocking the loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    own = os.dup(fd)  # a loop keeps one reader for each number: an execution may be waiting for this one
    loop.add_reader(own, lambda: done.done() or done.set_result(None))
    try:
        await asyncio.wait_for(done, seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True


class ForkServer:
    """Started once per pool, and again should it die; its kernels die with it."""

    def __init__(
        self, folder: str, preload: Sequence[str], features: Features | None, variables: Mapping[str, str]
    ) -> None:
        """`folder`: the pool's; `features`: of bubblewrap, None = no namespaces; `variables`: of its environment."""
        self._environment = {**environment(1, "/tmp"), **variables}
        self._folder, self._preload, self._features = folder, list(preload), features
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Launch it and wait until everything is imported. Raises KernelStartError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        try:
            with theirs:
                self._process = self._launch(theirs.fileno())
            await self._receive(_IMPORT_SECONDS)
        except (KernelStartError, OSError) as error:
            await self.close()
            last = self.log().splitlines()[-1:]
            raise KernelStartError(f"the fork server did not start: {' '.join([str(error), *last])}") from error

    def _launch(self, fd: int) -> subprocess.Popen[bytes]:
        config = {"fd": fd, "preload": self._preload, "environment": self._environment, "parent": os.getpid()}
        code = KERNEL_PACKAGE if self._features is None else f"{CODE}/kernel"
        config["namespaces"] = self._features is not None
        command = [sys.executable, "-I", f"{code}/__main__.py", json.dumps(config)]
        if self._features is not None:
            view = View(
                shm_bytes=MIB,
                tmp_bytes=64 * MIB,
                read_only=((KERNEL_PACKAGE, code), *(("/dev/null", f"/etc/{name}") for name in _ETC)),
                folders=(RUN, WORKSPACE, POOL),
            )
            command = build_command(self._features, view, command)
        with open(f"{self._folder}/forkserver.log", "wb") as log:
            return subprocess.Popen(
                command,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
                start_new_session=True,
            )

    def log(self) -> str:
        """The end of what it, or a kernel that was not yet confined, complained about."""
        return tail(None, f"{self._folder}/forkserver.log")

    async def spawn(self, order: dict[str, Any]) -> list[int]:
        """Fork a kernel; returns its pidfd and what else came along, which the caller owns. Raises KernelStartError."""
        exchange = asyncio.get_running_loop().create_task(self._exchange(order))
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            exchange.add_done_callback(_kill_orphan)
            raise

    async def forget(self, storage: str) -> None:
        """Give up a session's files, where the fork server has them."""
        if self._features is not None and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(KernelStartError):
                await self._exchange({"forget": storage})

    async def _exchange(self, order: dict[str, Any]) -> list[int]:
        async with self._turn:
            if self._process is None or self._process.poll() is not None:
                await self.close()
                await self.start()
            assert self._socket is not None
            try:
                self._socket.send(json.dumps(order).encode())
                return await self._receive(_FORK_SECONDS)
            except OSError as error:
                raise KernelStartError(f"the fork server died: {error}") from error

    async def _receive(self, seconds: float) -> list[int]:
        """The descriptors in the next message."""
        assert self._socket is not None
        if not await wait_readable(self._socket.fileno(), seconds):
            raise KernelStartError(f"the fork server did not answer within {seconds:g} s")
        data, ancillary, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(8))
        if not data:
            raise KernelStartError("the fork server ended")
        answer = json.loads(data)
        if "error" in answer:
            raise KernelStartError(f"the fork server could not fork: {answer['error']}")
        return list(array.array("i", ancillary[0][2])) if ancillary else []

    async def close(self) -> None:
        """Kill it and all its kernels. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _kill_orphan(exchange: asyncio.Task[list[int]]) -> None:
    """Nobody waits for this kernel any more."""
    if not exchange.cancelled() and exchange.exception() is None:
        pidfd, *others = exchange.result()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)  # a supervisor takes the rest along
        for fd in (pidfd, *others):
            os.close(fd)
