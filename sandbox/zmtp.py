"""A client of ZMTP 3.0 (rfc.zeromq.org/spec/23) over a unix socket, whose peer is hostile.

Bytes are counted as they come, before anything is parsed; nothing is read while nobody listens; neither one message
nor a backlog can grow large.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_MAX_FRAMES = 64
_BACKLOG = 64
_HANDSHAKE_BYTES = 4096


def encode(frames: Sequence[bytes], flags: int = 0) -> bytes:
    """One message as it travels."""
    parts = []
    for left, frame in zip(range(len(frames) - 1, -1, -1), frames, strict=True):
        more, size = flags | (_MORE if left else 0), len(frame)
        parts += [bytes([more, size]) if size < 256 else bytes([more | _LONG]) + size.to_bytes(8, "big"), frame]
    return b"".join(parts)


def handshake(socket_type: str) -> bytes:
    """All that a client says first."""
    kind = socket_type.encode()
    return _GREETING + encode([b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind], _COMMAND)


@dataclass
class Allowance:
    """What may still come in one execution, over all channels together."""

    bytes: int
    messages: int

    @property
    def spent(self) -> bool:
        """Whether more has come than may."""
        return self.bytes < 0 or self.messages < 0


class Decoder:
    """Bytes in, messages out; of a message that is too large nothing is held."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._skip = len(_GREETING)
        """Bytes to come that nobody needs."""
        self._frames: list[bytes] = []
        self._size = self._count = 0
        """Of the complete frames of the message that is coming."""

    def feed(self, data: bytes) -> Iterator[list[bytes] | None]:
        """Each message that `data` completes; one that was too large as an empty list, a command as None."""
        self._buffer += data
        while True:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            start = 9 if self._buffer and self._buffer[0] & _LONG else 2
            if self._skip or len(self._buffer) < start:
                return
            flags, end = self._buffer[0], start + int.from_bytes(self._buffer[1:start], "big")
            if flags & _COMMAND:
                self._skip = end
                yield None
                continue
            if self._size + end > self._max_bytes or self._count >= _MAX_FRAMES:
                self._skip, self._size, self._frames = end, self._max_bytes, []  # nor anything more of this message
            elif len(self._buffer) < end:
                return
            else:
                self._frames.append(bytes(self._buffer[start:end]))
                self._size, self._count = self._size + end, self._count + 1
                del self._buffer[:end]
            if not flags & _MORE:
                yield self._frames
                self._frames, self._size, self._count = [], 0, 0


class Connection(asyncio.Protocol):
    """One socket of a kernel. Nothing is read before `listen` and after `rest`."""

    def __init__(self, socket_type: str, max_bytes: int, notify: Callable[[], None]) -> None:
        """`notify` is called when there is something new: a message, the end, or too much."""
        self._first, self._decoder, self._notify = handshake(socket_type), Decoder(max_bytes), notify
        self._waiting = encode([b"\1"]) if socket_type == "SUB" else b""  # subscribe to everything
        """To be sent when the other side has said hello: it takes nothing else before."""
        self._greeted = False
        self._transport: asyncio.Transport | None = None
        self._allowance = Allowance(_HANDSHAKE_BYTES, 1)
        self._listening = False
        self.inbox: deque[list[bytes]] = deque()
        self.lost = False
        """Whether the other side has ended it, and all it sent is in the inbox."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        """Count, then cut into messages."""
        self._allowance.bytes -= len(data)
        for message in self._decoder.feed(data):
            self._allowance.messages -= 1
            if self._allowance.spent:
                break
            if not self._greeted and self._transport is not None:
                self._greeted = True
                self._transport.write(self._waiting)
            if message is not None:
                self.inbox.append(message)
        self._set_reading()
        self._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self.lost = True
        self._notify()

    def listen(self, allowance: Allowance) -> None:
        """Take at most `allowance` until `rest`."""
        self._allowance, self._listening = allowance, True
        self._set_reading()

    def rest(self) -> None:
        """Forget what came, and let the other side wait."""
        self._listening = False
        self.inbox.clear()
        self._set_reading()

    def take(self) -> list[bytes]:
        """The oldest message."""
        message = self.inbox.popleft()
        self._set_reading()
        return message

    def _set_reading(self) -> None:
        assert self._transport is not None
        if self._transport.is_closing():  # uvloop has nothing to do with such any more
            return
        wanted = self._listening or not self._greeted
        if wanted and not self._allowance.spent and len(self.inbox) < _BACKLOG:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def send(self, frames: Sequence[bytes]) -> None:
        """Never waits."""
        assert self._transport is not None
        if not self._greeted:
            self._waiting += encode(frames)
        elif not self.lost:
            self._transport.write(encode(frames))

    def close(self) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()
