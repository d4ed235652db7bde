"""One execution: send the code, collect bounded output, escalate, and never wait for a dead kernel."""

from __future__ import annotations

import signal
import time
from typing import Any

from sandbox.kernel.text import HeadTail, head_tail
from sandbox.limits import ResourceLimits
from sandbox.live import DIED, KillReason, LiveKernel
from sandbox.result import ExecutionStatus, clean

_CLOSING_SECONDS = 2.0


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
        """A message was too large to be taken, or did not come."""
        self._replied = self._idle = False
        self._lost = False
        """One channel has lost its closing message."""
        self._question = ""
        """Id of what was asked because one of the two closing messages was late: is it lost?"""
        self._id = ""

    async def run(self, code: str) -> None:
        """Until the kernel has finished the code, or is dead (then `kernel.kill_reason` says why)."""
        channels = self._kernel.channels
        channels.listen()
        try:
            await self._run(code.encode("utf-8", "replace").decode("utf-8"))
        finally:
            channels.rest()
        self.dropped = channels.dropped or self._lost

    async def _run(self, code: str) -> None:
        channels = self._kernel.channels
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        self._id = channels.send("execute_request", {**content, "user_expressions": {}})
        deadline = time.monotonic() + self._seconds
        asking: float | None = None
        while not self._lost and not (self._replied and self._idle):
            if asking is None and (self._replied or self._idle):
                asking = time.monotonic() + _CLOSING_SECONDS
                if self._replied:  # the code is over: what is left is the kernel's own time
                    deadline = time.monotonic() + max(self._seconds, _CLOSING_SECONDS)
            asks = asking is not None and not self._question
            left = (min(asking, deadline) if asks else deadline) - time.monotonic()
            if left > 0:
                await self._receive(left)
                if self._kernel.kill_reason is not None:
                    return
            elif asks:
                self._question = channels.send("kernel_info_request", {})
            elif self._replied:
                self._lost = True
            elif not self.interrupted:
                self.interrupted = True
                deadline = time.monotonic() + self._limits.interrupt_seconds
                self._kernel.signal(signal.SIGINT)
            else:
                text = f"the code ran longer than {self._seconds:g} s and did not stop when interrupted"
                await self._kernel.kill(KillReason(ExecutionStatus.KILLED_TIMEOUT, text))
                return

    async def _receive(self, seconds: float) -> None:
        """Take one message if one comes within `seconds`; whoever sends too much, or hangs up, is killed."""
        channels = self._kernel.channels
        received = await channels.receive(seconds)
        if channels.allowance.spent:
            text = "the code produced far more output than can be taken"
            await self._kernel.kill(KillReason(ExecutionStatus.KILLED_OUTPUT, text))
        elif received is None and channels.over:
            await self._kernel.kill(DIED)
        elif received is not None:
            connection, message = received
            parent, kind = message["parent_header"].get("msg_id"), message["msg_type"]
            if parent == self._id and connection is channels.iopub:
                self._take_output(kind, message["content"])
            elif parent == self._id and kind == "execute_reply":
                self._take_reply(message["content"])
            # messages of a channel come in order: after the answer to a later question none of this code's can follow
            done = self._idle if connection is channels.iopub else self._replied
            self._lost |= bool(self._question) and parent == self._question and not done

    def _take_reply(self, content: dict[str, Any]) -> None:
        self._replied = True
        if content.get("status") != "ok" and self.error_name is None:
            self.error_name = self._clean(content.get("ename") or "Aborted")
            self.error_value = self._clean(content.get("evalue") or "")

    def _take_output(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "status":
            self._idle = self._idle or content.get("execution_state") == "idle"
        elif kind == "stream":
            stream = self.stderr if content.get("name") == "stderr" else self.stdout
            stream.add(self._clean(content.get("text", "")))
        elif kind == "execute_result":
            self.result = self._plain(content)
        elif kind == "display_data":
            self.stdout.add(self._plain(content) + "\n")
        elif kind == "error":
            lines = content.get("traceback")
            self.error_name = self._clean(content.get("ename", ""))
            self.error_value = self._clean(content.get("evalue", ""))
            lines = lines if isinstance(lines, list) else []
            self.traceback = self._clean("\n".join(line for line in lines if isinstance(line, str)))

    def _plain(self, content: dict[str, Any]) -> str:
        data = content.get("data")
        return self._clean(data.get("text/plain", "") if isinstance(data, dict) else "")

    def _clean(self, value: object) -> str:
        """Of what is no text nothing is told: writing it out could take long."""
        return clean(head_tail(value, self._limits.output_chars)) if isinstance(value, str) else ""
