"""What one execution gave, and how it is told to the agent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sandbox.kernel.text import head_tail

DEFAULT_TEXT_CHARS = 10_000

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\r\n")
"""What a terminal acts on, and line ends of two characters. Each piece is read once: linear in the text."""
_INVISIBLE = {
    **dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "\ufffd"),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), None),
    13: "\n",
}
"""Other control characters are shown as such, those that turn the direction of writing are left out."""


def clean(text: str) -> str:
    """`text` as its reader may be shown it: encodable as UTF-8, nothing in it but letters, tabs and line ends."""
    text = _ESCAPES.sub(lambda found: "\n" if found[0] == "\r\n" else "", text).translate(_INVISIBLE)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class ExecutionStatus(StrEnum):
    """How an execution ended. After every `killed_*` and after `died` the session goes on with a fresh kernel."""

    OK = "ok"
    ERROR = "error"
    """The code raised."""
    TIMEOUT = "timeout"
    """Too long, stopped by the interrupt: the kernel's state is kept."""
    KILLED_TIMEOUT = "killed_timeout"
    """Too long and deaf to the interrupt."""
    KILLED_MEMORY = "killed_memory"
    KILLED_DISK = "killed_disk"
    KILLED_OUTPUT = "killed_output"
    DIED = "died"
    """The kernel ended by itself (os._exit, segfault, signal), or started too many processes."""

    @property
    def lost_kernel(self) -> bool:
        """Whether variables were lost."""
        return self not in (ExecutionStatus.OK, ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT)


@dataclass(frozen=True)
class ExecutionResult:
    """One execution. All text was written by the agent's code and may be forged by it: never grade from it."""

    status: ExecutionStatus
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    """`repr` of the last expression."""
    error_name: str | None = None
    error_value: str | None = None
    traceback: str = ""
    duration: float = 0.0
    """Seconds, restart of the kernel included."""
    kernel_restarted: bool = False
    truncated: bool = False
    """Whether some output was cut already here, before `to_text` cuts for the agent."""
    notice: str = ""
    """What the sandbox did and what was lost; empty when nothing special happened."""
    text_chars: int = DEFAULT_TEXT_CHARS
    """Default `limit` of `to_text`."""

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end without an exception."""
        return self.status is ExecutionStatus.OK

    def to_text(self, limit: int | None = None) -> str:
        """What the agent is told: output, error and notice in at most about `limit` characters.

        Head and tail are kept (tracebacks end at the tail); the notice is never cut. The text is `clean`.
        """
        notice = f"[sandbox] {self.notice}" if self.notice else ""
        parts = [self.stdout, self.result or "", f"[stderr]\n{self.stderr}" if self.stderr else "", self.traceback]
        body = "\n".join(clean(part).rstrip("\n") for part in parts if part)
        budget = (self.text_chars if limit is None else limit) - len(notice)
        text = "\n".join(part for part in (head_tail(body, max(budget, 0)), notice) if part)
        return text or "[sandbox] the code ran without output."
