"""math-verify in a process that can be killed: a hard time limit per answer that holds in any thread or process.

math-verify bounds its own time with signals, which work only in the main thread, and sympy can neither be interrupted
from Python nor trusted with memory (`9^{9^{9^9}}`). So it runs in a child process (this file as `python -m`), which
speaks one JSON line per answer over pipes, has its memory and time limited by the kernel, ends with its parent, and is
killed when an answer takes too long. It is a new interpreter, never a fork: a big trainer's memory is not touched.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from mappa.errors import TaskError

MAX_CHARACTERS = 2_000
"""Longer answers are not answers; they are wrong without being parsed."""
_MEMORY_BYTES = 4 * 2**30
_START_SECONDS = 120.0
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "HOME")


class Verifier:
    """One lazily started, reused child; calls from several threads take turns.

    Use as a context manager, or `close()` it. After a time-out the child is killed and the next call starts another;
    starting (about a second) is not counted against an answer's limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, answer: str, truth: str, limit_s: float) -> bool | None:
        """Whether the LaTeX expressions are equal; None when that could not be decided within `limit_s` seconds.

        Raises:
            TaskError: the child process cannot be started (math-verify missing or broken).
        """
        if max(len(answer), len(truth)) > MAX_CHARACTERS:
            return False
        with self._lock:
            child = self._started()
            request = json.dumps({"answer": answer, "truth": truth, "limit_s": limit_s})
            reply = _exchange(child, request, limit_s)
            if reply is None:
                self._stop()
                return None
            return bool(json.loads(reply)["equal"])

    def close(self) -> None:
        """Kill the child, if there is one; a later `check` starts a new one."""
        with self._lock:
            self._stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._stop()
            self._child = _start()
            if _read_line(self._child, _START_SECONDS) is None:
                self._stop()
                raise TaskError(
                    "math-verify does not start; try: python -m mappa.task.verifier, and pip install math-verify"
                )
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def shared() -> Verifier:
    """This process's verifier: a forked child gets its own, as two processes must not share the pipes."""
    return _shared(os.getpid())


@functools.cache
def _shared(pid: int) -> Verifier:
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mappa.task.verifier"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment,
        start_new_session=True,
    )


def _exchange(child: subprocess.Popen[bytes], request: str, limit_s: float) -> str | None:
    try:
        child.stdin.write(request.encode() + b"\n")
    except BrokenPipeError:
        return None
    return _read_line(child, limit_s)


def _read_line(child: subprocess.Popen[bytes], limit_s: float) -> str | None:
    """The child's next line; None when time is up or the child is gone."""
    deadline = time.monotonic() + limit_s
    poller = select.poll()
    poller.register(child.stdout, select.POLLIN)
    received = b""
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            return None
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            return None
        received += chunk
    return received.decode()


def _compare(answer: str, truth: str) -> bool:
    """math-verify's word on two expressions, its own (signal) time limits switched off."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    gold, found = (
        parse(rf"\boxed{{{text}}}", extraction_config=targets, parsing_timeout=None) for text in (truth, answer)
    )
    return bool(gold) and bool(found) and verify(gold, found, strict=True, timeout_seconds=None)


def _serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the parent closes the pipe. The alarm kills this process even inside C code."""
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    replies.write(json.dumps({"ready": _compare("1", "1")}) + "\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + 1.0)
        try:
            equal = _compare(request["answer"], request["truth"])
        except Exception:  # noqa: BLE001 - boundary: an expression that math-verify chokes on is not the right one
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        replies.write(json.dumps({"equal": equal}) + "\n")
        replies.flush()


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
