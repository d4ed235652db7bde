"""The two channels to one kernel. Whatever arrives on them may be forged by the code that runs there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from typing import Any

from jupyter_client.session import Session

from sandbox.errors import KernelStartError
from sandbox.limits import MIB, ResourceLimits
from sandbox.zmtp import Allowance, Connection

_MAX_MESSAGES = 50_000
_HEADER_BYTES = 65_536
"""Of a message's header, and of its content without the texts in it: what is nested takes long to parse."""
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_DEATH_SECONDS = 0.2
"""How long after a kernel's death its last words may take."""


class Channels:
    """Shell (requests and replies) and iopub (output) over unix sockets, connected once, before any code runs."""

    def __init__(self, key: bytes, pidfd: int, limits: ResourceLimits) -> None:
        """`pidfd` of the process without which there is no kernel."""
        self._session = Session(key=key, digest_history_size=0)
        self._max_bytes, self._start_seconds = limits.message_mib * MIB, limits.start_seconds
        self._news = asyncio.Event()
        self.shell = Connection("DEALER", self._max_bytes, self._news.set)
        self.iopub = Connection("SUB", self._max_bytes, self._news.set)
        self.allowance = Allowance(0, 0)
        self.dropped = False
        """Whether a message since `listen` was too large to be taken."""
        self._dead = False
        self._pidfd = os.dup(pidfd)  # a loop keeps one reader for each number: somebody else may watch this one
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_death)

    def _on_death(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(_DEATH_SECONDS, self._on_silence)

    def _on_silence(self) -> None:
        self._dead = True
        self._news.set()

    async def open(self, folder: int) -> None:
        """Connect to the sockets in `folder`, a descriptor, and wait until both carry something.

        Raises KernelStartError on death or timeout.
        """
        deadline = time.monotonic() + self._start_seconds
        for number, connection in ((1, self.shell), (2, self.iopub)):
            await self._connect(connection, f"/proc/self/fd/{folder}/k-{number}", deadline)
        self.listen()
        heard: set[Connection] = set()
        while len(heard) < 2:  # until iopub is subscribed, answers go nowhere
            self.send("kernel_info_request", {})
            while (answer := await self._next(min(deadline - time.monotonic(), 0.1 if heard else 1.0))) is not None:
                heard.update([answer[0]] if answer[1] else [])
                if len(heard) == 2:
                    break
            self._require_start(deadline)
        self.rest()

    async def _connect(self, connection: Connection, path: str, deadline: float) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                await self._loop.create_unix_connection(lambda: connection, path)
                return
            self._require_start(deadline)
            await asyncio.sleep(0.005)

    def _require_start(self, deadline: float) -> None:
        if self.over:
            raise KernelStartError("it ended at once")
        if time.monotonic() > deadline:
            raise KernelStartError(f"no answer within {self._start_seconds:g} s")

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        lost = self.shell.lost or self.iopub.lost
        return (self._dead or lost) and not (self.shell.inbox or self.iopub.inbox)

    def listen(self) -> None:
        """Begin to read, with a new allowance."""
        self.allowance = Allowance(8 * self._max_bytes, _MAX_MESSAGES)
        self.dropped = False
        for connection in (self.shell, self.iopub):
            connection.listen(self.allowance)

    def rest(self) -> None:
        """Read nothing until the next `listen`."""
        for connection in (self.shell, self.iopub):
            connection.rest()

    async def receive(self, seconds: float) -> tuple[Connection, dict[str, Any]] | None:
        """The next valid message, and where it came; None when there is none in time, too much, or no kernel."""
        deadline = time.monotonic() + seconds
        while (found := await self._next(deadline - time.monotonic())) is not None:
            connection, frames = found
            message = self._parse(frames) if frames else None
            self.dropped |= not frames
            if message is not None:
                return connection, message
        return None

    async def _next(self, seconds: float) -> tuple[Connection, list[bytes]] | None:
        await asyncio.sleep(0)  # between any two messages others have their turn
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.over or self.allowance.spent):
                    for connection in (self.iopub, self.shell):
                        if connection.inbox:
                            return connection, connection.take()
                    self._news.clear()
                    await self._news.wait()
        return None

    def _parse(self, frames: list[bytes]) -> dict[str, Any] | None:
        """The message with valid signature and shape, else None."""
        try:
            parts = self._session.feed_identities(frames)[1]
            if max(map(len, parts[:4])) > _HEADER_BYTES or len(_TEXTS.sub(b"", parts[4])) > _HEADER_BYTES:
                return None
            message = self._session.deserialize(parts)
            shaped = isinstance(message["content"], dict) and isinstance(message["parent_header"], dict)
        except Exception:  # noqa: BLE001 - boundary: the sender is hostile, any parser error means "no message"
            return None
        return message if shaped and isinstance(message["msg_type"], str) else None

    def send(self, kind: str, content: dict[str, Any]) -> str:
        """Send a request on shell, without waiting; returns its id."""
        message = self._session.msg(kind, content)
        self.shell.send(self._session.serialize(message))
        return str(message["header"]["msg_id"])

    def close(self) -> None:
        """Both."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.shell.close()
        self.iopub.close()
