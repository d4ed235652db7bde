"""Output of any size in bounded memory: the kernel's streams and messages."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import struct
import sys
import termios
import time
from typing import Any

from ipykernel.iostream import OutStream
from jupyter_client.session import Session

from .text import HeadTail, head_tail


class BoundedOutStream(OutStream):
    """Sends the first half of `limit` characters of an execution as they come, keeps the last half, counts the rest.

    `limit` is set once, before the streams are made.
    """

    limit = 200_000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As OutStream, which makes these itself."""
        self._kernel_pid = os.getpid()
        self._kept = HeadTail(self.limit)
        super().__init__(*args, **kwargs)

    def write(self, string: str) -> int:
        """As OutStream; in a forked child straight to the (captured) file descriptor."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if os.getpid() != self._kernel_pid:
            data = string.encode("utf-8", "replace")
            while data:
                data = data[os.write(1 if self.name == "stdout" else 2, data) :]
            return len(string)
        if head := self._kept.add(string):
            super().write(head)
        return len(string)

    def end_execution(self) -> None:
        """Send the tail and start counting anew."""
        if rest := self._kept.rest():
            super().write(rest)
        self._kept = HeadTail(self.limit)
        self.flush()

    def flush(self) -> None:
        """As OutStream; a forked child has nothing to flush and no thread to wait for."""
        if os.getpid() == self._kernel_pid:
            super().flush()

    def _flush(self) -> None:
        if os.getpid() == self._kernel_pid:
            super()._flush()

    def stop_echo(self) -> None:
        """ipykernel copies what comes through file descriptors to its own log: let that go nowhere."""
        copy = getattr(self, "_original_stdstream_copy", None)
        if copy is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, copy)
            os.close(null)

    def unread_bytes(self) -> int:
        """What subprocesses have written to the file descriptor and nobody has read yet."""
        if self._fid is None or not self.watch_fd_thread.is_alive():
            return 0
        return struct.unpack("i", fcntl.ioctl(self._fid, termios.FIONREAD, b"\0" * 4))[0]


def end_execution(seconds: float = 0.25) -> None:
    """Wait (bounded) for what subprocesses wrote, then let both streams send their tails."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, BoundedOutStream)]
    deadline = time.monotonic() + seconds
    time.sleep(0.0002)  # lets the threads that read the descriptors take the interpreter lock
    while any(s.unread_bytes() for s in streams) and time.monotonic() < deadline:
        time.sleep(0.0005)
    for stream in streams:
        stream.end_execution()


def clip(value: Any, limit: int) -> Any:
    """`value` with every string cut to head + tail and made encodable; wide containers are cut too."""
    if isinstance(value, str):
        if not value.isascii():  # a lone surrogate would make the packer lose the whole message
            value = value.encode("utf-8", "replace").decode("utf-8")
        return head_tail(value, limit)
    if isinstance(value, dict):
        return {key: clip(item, limit) for key, item in list(value.items())[:64]}
    if isinstance(value, (list, tuple)):
        return [clip(item, limit) for item in value[:200]]
    return value


_KINDS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
    "text/html": "html",
    "application/vnd.plotly.v1+json": "json",
    "application/json": "json",
}
"""Displays that become files, best first."""
_PICTURES = ("png", "jpg", "svg", "pdf")


def save(data: dict[str, Any], folder: str) -> str:
    """Save what a display has and text cannot show; returns what is to be read instead.

    Pictures are always saved. Other kinds are where the text says no more than what it is (`<... object>`): a table
    is text as well.
    """
    text = data.get("text/plain")
    text = text if isinstance(text, str) else ""
    says_nothing = not text or (text.startswith("<") and text.endswith(">"))
    kind = next((k for k in _KINDS if k in data and (says_nothing or _KINDS[k] in _PICTURES)), None)
    if kind is None:
        return text
    try:
        name = _write(_bytes(data[kind]), _KINDS[kind], folder)
    except (OSError, ValueError, TypeError) as error:
        return f"{text}\n[not saved: {error}]".lstrip()
    return f"{text}\n[saved as {name}]".lstrip()


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return json.dumps(value).encode()
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return value.encode("utf-8", "replace")


def _write(data: bytes, ending: str, folder: str) -> str:
    for number in itertools.count(1):
        name = f"output-{number}.{ending}"
        try:
            with open(f"{folder}/{name}", "xb") as file:
                file.write(data)
        except FileExistsError:
            continue
        return name
    raise AssertionError


class BoundedSession(Session):
    """Bounds every message at the one place all of them pass. Limits are set once, before it is made."""

    text_chars = 200_000
    folder = "."
    """Where displays are saved."""

    def serialize(self, msg: dict[str, Any], ident: Any = None) -> list[bytes]:
        """As Session, with clipped contents, and displays as text."""
        kind, content = msg["header"]["msg_type"], msg["content"]
        if kind in ("stream", "error", "execute_reply", "execute_input"):
            msg = {**msg, "content": clip(content, self.text_chars)}
        elif kind in ("execute_result", "display_data", "update_display_data") and isinstance(
            content.get("data"), dict
        ):
            text = clip(save(content["data"], self.folder), self.text_chars)
            msg = {**msg, "content": {**content, "data": {"text/plain": text}, "metadata": {}}}
        return super().serialize(msg, ident)
