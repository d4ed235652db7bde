"""The two sockets to one kernel. Whatever arrives on them may be forged by the code that runs there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from sandbox.errors import KernelStartError
from sandbox.limits import MIB


class _Context(zmq.asyncio.Context):
    """A context that never waits when a pool was abandoned without `close`."""

    def __del__(self) -> None:
        """pyzmq would wait here, for ever, for sockets that are garbage themselves."""


def make_context() -> zmq.asyncio.Context:
    """One context (one I/O thread) for all kernels of a pool; `destroy` it."""
    context = _Context()
    context.set(zmq.MAX_SOCKETS, 65_535)
    return context


class Channels:
    """Shell (requests and replies) and iopub (output) over unix sockets."""

    def __init__(self, context: zmq.asyncio.Context, address: str, key: bytes, message_mib: int) -> None:
        """`address`: socket path without the channel's number."""
        self._context, self._address, self._max_bytes = context, address, message_mib * MIB
        self.session = Session(key=key)
        self._monitors: dict[zmq.asyncio.Socket, zmq.asyncio.Socket] = {}
        self.shell = self._open(zmq.DEALER, 1)
        self.iopub = self._open(zmq.SUB, 2)

    def _open(self, kind: int, channel: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_bytes)
        socket.setsockopt(zmq.RCVHWM, 200)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitors[socket] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(f"ipc://{self._address}-{channel}")
        return socket

    async def cut_off(self) -> bool:
        """Whether a connection has ended, as libzmq does for good after a message that is too large."""
        for monitor in self._monitors.values():
            with contextlib.suppress(zmq.Again):
                return bool(await monitor.recv_multipart(zmq.NOBLOCK))
        return False

    def reopen_shell(self) -> None:
        """libzmq closes a connection for good after a message that is too large: make a new one."""
        self._shut(self.shell)
        self.shell = self._open(zmq.DEALER, 1)

    def reopen_iopub(self) -> None:
        """As `reopen_shell`."""
        self._shut(self.iopub)
        self.iopub = self._open(zmq.SUB, 2)

    def _shut(self, socket: zmq.asyncio.Socket) -> None:
        socket.disable_monitor()
        self._monitors.pop(socket).close()
        socket.close()

    def close(self) -> None:
        """Both sockets."""
        self._shut(self.shell)
        self._shut(self.iopub)

    def send(self, kind: str, content: dict[str, Any]) -> str:
        """Send a request on shell; returns its id."""
        message = self.session.send(self.shell, kind, content)
        assert message is not None
        return str(message["header"]["msg_id"])

    def parse(self, frames: list[bytes]) -> dict[str, Any] | None:
        """The message with valid signature and shape, else None."""
        try:
            message = self.session.deserialize(self.session.feed_identities(frames)[1])
            shaped = isinstance(message["content"], dict) and isinstance(message["parent_header"], dict)
        except Exception:  # noqa: BLE001 - boundary: the sender is hostile, any parser error means "no message"
            return None
        return message if shaped and isinstance(message["msg_type"], str) else None

    async def wait_ready(self, pidfd: int, seconds: float) -> None:
        """Until both channels have carried something. Raises KernelStartError on death or timeout."""
        poller = zmq.asyncio.Poller()
        for source in (self.shell, self.iopub, pidfd):
            poller.register(source, zmq.POLLIN)
        deadline = time.monotonic() + seconds
        heard: set[zmq.asyncio.Socket] = set()
        self.send("kernel_info_request", {})
        while len(heard) < 2:
            left = deadline - time.monotonic()
            if left <= 0:
                raise KernelStartError(f"no answer within {seconds:g} s")
            ready = dict(await poller.poll(min(left, 0.1 if heard else 1.0) * 1000))
            if pidfd in ready:
                raise KernelStartError("it ended at once")
            for socket in (self.shell, self.iopub):
                if socket in ready:
                    await socket.recv_multipart()
                    heard.add(socket)
            if not ready and self.shell in heard:  # iopub was not subscribed yet when the answer went out
                self.send("kernel_info_request", {})
        await asyncio.sleep(0)
