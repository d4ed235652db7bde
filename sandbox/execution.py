"""One execution: send the code, collect bounded output, escalate, and never wait for a dead kernel."""

from __future__ import annotations

import enum
import re
import signal
import site
import sysconfig
import time
from pathlib import PurePath
from typing import Any

import zmq
import zmq.asyncio

from sandbox.limits import MIB, ResourceLimits
from sandbox.live import KillReason, LiveKernel
from sandbox.result import ExecutionStatus, HeadTail, head_tail

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FOLDERS = {PurePath(sysconfig.get_path("stdlib")), *map(PurePath, site.getsitepackages())}
_SPELLINGS = {f"~/{folder.relative_to(parent)}/" for folder in _FOLDERS for parent in folder.parents}  # by IPython
_SPELLINGS |= {f"{folder}/" for folder in _FOLDERS}
_LIBRARY = re.compile("|".join(map(re.escape, sorted(_SPELLINGS, key=len, reverse=True))))
_CELL = re.compile(r"(?<![^\s\"])[^\s\"]*/ipykernel_\d+/\d+\.py")
"""Starts only where a word does: from every letter of a long word it would take quadratic time."""
_CLOSING_SECONDS = 2.0
_MAX_MESSAGES = 200_000


class _Phase(enum.Enum):
    RUNNING = enum.auto()
    INTERRUPTED = enum.auto()


class Execution:
    """State of one running piece of code; `run` once, then read the attributes."""

    def __init__(self, kernel: LiveKernel, limits: ResourceLimits, seconds: float) -> None:
        self._kernel, self._limits, self._seconds = kernel, limits, seconds
        self.stdout, self.stderr = HeadTail(limits.output_chars), HeadTail(limits.output_chars)
        self.result: str | None = None
        self.error_name: str | None = None
        self.error_value: str | None = None
        self.traceback = ""
        self.interrupted = False
        self.dropped = False
        """A message was too large to be taken."""
        self._replied = self._idle = False
        self._lost = False
        """One channel has lost its closing message."""
        self._question = ""
        """Id of what was asked because one of the two closing messages was late: is it lost?"""
        self._bytes = self._messages = 0
        self._id = ""

    async def run(self, code: str) -> None:
        """Until the kernel has finished the code, or is dead (then `kernel.kill_reason` or its exit says why)."""
        code = code.encode("utf-8", "replace").decode("utf-8")
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        self._id = self._kernel.channels.send("execute_request", {**content, "user_expressions": {}})
        phase, deadline = _Phase.RUNNING, time.monotonic() + self._seconds
        asking: float | None = None
        while not self._lost and not (self._replied and self._idle):
            if asking is None and (self._replied or self._idle):
                asking = time.monotonic() + _CLOSING_SECONDS
                if self._replied:  # the code is over: what is left is the kernel's own time
                    deadline = time.monotonic() + max(self._seconds, _CLOSING_SECONDS)
            asks = asking is not None and not self._question
            left = (min(asking, deadline) if asks else deadline) - time.monotonic()
            if left > 0:
                if not await self._receive(left):
                    return
            elif asks:
                self._lost = await self._kernel.channels.cut_off()
                self._question = self._kernel.channels.send("kernel_info_request", {})
            elif self._replied:
                self._lost = True
            elif phase is _Phase.RUNNING:
                phase, self.interrupted = _Phase.INTERRUPTED, True
                deadline = time.monotonic() + self._limits.interrupt_seconds
                await self._kernel.provisioner.send_signal(signal.SIGINT)
            else:
                text = f"the code ran longer than {self._seconds:g} s and did not stop when interrupted"
                await self._kernel.kill(KillReason(ExecutionStatus.KILLED_TIMEOUT, text))
                return
        if self._lost:
            self._reopen()

    async def _receive(self, seconds: float) -> bool:
        """Take what has come within `seconds`; False once the kernel is dead and its output read."""
        channels, pidfd = self._kernel.channels, self._kernel.pidfd
        poller = zmq.asyncio.Poller()
        for source in (channels.shell, channels.iopub, pidfd):
            poller.register(source, zmq.POLLIN)
        ready = dict(await poller.poll(seconds * 1000))
        if channels.iopub in ready:
            await self._read_iopub()
        if channels.shell in ready:
            message = channels.parse(await channels.shell.recv_multipart(zmq.NOBLOCK))
            if message and self._is_mine(message) and message["msg_type"] == "execute_reply":
                self._take_reply(message["content"])
            self._lost |= bool(message) and self._is_answer(message) and not self._replied
        return pidfd not in ready or (channels.iopub in ready and self._kernel.kill_reason is None)

    async def _read_iopub(self) -> None:
        channels = self._kernel.channels
        for _ in range(100):
            try:
                frames = await channels.iopub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._messages += 1
            self._bytes += sum(map(len, frames))
            if self._bytes > 8 * self._limits.message_mib * MIB or self._messages > _MAX_MESSAGES:
                text = "the code produced far more output than can be taken"
                await self._kernel.kill(KillReason(ExecutionStatus.KILLED_OUTPUT, text))
                return
            message = channels.parse(frames)
            if message and self._is_mine(message):
                self._take_output(message["msg_type"], message["content"])
            self._lost |= bool(message) and self._is_answer(message) and not self._idle

    def _is_answer(self, message: dict[str, Any]) -> bool:
        """Messages of a channel come in order: after the answer to a later question none of this code's can follow."""
        return bool(self._question) and message["parent_header"].get("msg_id") == self._question

    def _is_mine(self, message: dict[str, Any]) -> bool:
        return message["parent_header"].get("msg_id") == self._id

    def _reopen(self) -> None:
        self.dropped = True
        if self._replied:
            self._kernel.channels.reopen_iopub()
        else:
            self._kernel.channels.reopen_shell()

    def _take_reply(self, content: dict[str, Any]) -> None:
        self._replied = True
        if content.get("status") != "ok" and self.error_name is None:
            self.error_name = self._clean(content.get("ename") or "Aborted")
            self.error_value = self._clean(content.get("evalue") or "")

    def _take_output(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "status":
            self._idle = self._idle or content.get("execution_state") == "idle"
        elif kind == "stream":
            if content.get("name") == "stderr":
                self.stderr.add(self._located(content.get("text", "")))
            else:
                self.stdout.add(self._clean(content.get("text", "")))
        elif kind == "execute_result":
            self.result = self._plain(content)
        elif kind == "display_data":
            self.stdout.add(self._plain(content) + "\n")
        elif kind == "error":
            lines = content.get("traceback")
            self.error_name = self._clean(content.get("ename", ""))
            self.error_value = self._clean(content.get("evalue", ""))
            self.traceback = self._located("\n".join(map(str, lines if isinstance(lines, list) else [])))

    def _plain(self, content: dict[str, Any]) -> str:
        data = content.get("data")
        return self._clean(data.get("text/plain", "") if isinstance(data, dict) else "")

    def _located(self, value: object) -> str:
        """Warnings and tracebacks name files as they are imported: the same on every machine, and shorter."""
        return _CELL.sub("<cell>", _LIBRARY.sub("", self._clean(value)))

    def _clean(self, value: object) -> str:
        return _ANSI.sub("", head_tail(str(value), self._limits.output_chars))
