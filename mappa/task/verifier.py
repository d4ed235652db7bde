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
import queue
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mappa.errors import TaskError

MAX_CHARACTERS = 2_000
"""Longer answers are not answers; they are wrong without being parsed."""
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\\lor(?![a-zA-Z])|\bor\b")
_MEMORY_BYTES = 4 * 2**30
_START_SECONDS = 120.0
_CHILDREN = 4
"""Of a process: so many answers that take the whole limit at once delay the others little."""
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
        return self._ask({"answer": answer, "truth": truth}, limit_s)

    def canonical(self, answer: str, limit_s: float) -> str | None:
        """The LaTeX expression's value, written alike for equal ones; None: it has none, or time was up.

        Raises:
            TaskError: as of `check`.
        """
        return None if len(answer) > MAX_CHARACTERS else self._ask({"answer": answer}, limit_s)

    def _ask(self, request: dict[str, str], limit_s: float) -> Any:
        with self._lock:
            reply = _exchange(self._started(), json.dumps({**request, "limit_s": limit_s}), limit_s)
            if reply is None:
                self._stop()
                return None
            return json.loads(reply)["found"]

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


class Verifiers:
    """A few verifiers, each started when all others are busy."""

    def __init__(self, count: int = _CHILDREN) -> None:
        self._all = [Verifier() for _ in range(count)]
        self._free: queue.LifoQueue[Verifier] = queue.LifoQueue()
        for verifier in self._all:
            self._free.put(verifier)

    def check(self, answer: str, truth: str, limit_s: float) -> bool | None:
        """`Verifier.check` by one that is free."""
        with self._one() as verifier:
            return verifier.check(answer, truth, limit_s)

    def canonical(self, answer: str, limit_s: float) -> str | None:
        """`Verifier.canonical` by one that is free."""
        with self._one() as verifier:
            return verifier.canonical(answer, limit_s)

    def close(self) -> None:
        for verifier in self._all:
            verifier.close()

    @contextmanager
    def _one(self) -> Iterator[Verifier]:
        verifier = self._free.get()
        try:
            yield verifier
        finally:
            self._free.put(verifier)


def shared() -> Verifiers:
    """This process's verifiers: a forked child gets its own, as two processes must not share the pipes."""
    return _shared(os.getpid())


@functools.cache
def _shared(pid: int) -> Verifiers:
    verifiers = Verifiers()
    atexit.register(verifiers.close)
    return verifiers


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


def _parsed(text: str) -> list[Any]:
    """What math-verify reads, its own (signal) time limits switched off; inequalities joined by `or` as their set."""
    import sympy
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    read = functools.partial(parse, extraction_config=targets, parsing_timeout=None)
    pieces = _OR.split(text)
    if len(pieces) == 1:
        return read(rf"\boxed{{{text}}}")
    return [sympy.Union(*(read(rf"\boxed{{{piece}}}")[0].as_set() for piece in pieces))]


def _compare(answer: str, truth: str) -> bool:
    """math-verify's word on two expressions."""
    from math_verify import verify

    gold, found = _parsed(truth), _parsed(answer)
    settings = {"strict": True, "timeout_seconds": None, "allow_set_relation_comp": True}
    return bool(gold) and bool(found) and verify(gold, found, **settings)


def _canonical(answer: str) -> str | None:
    """A constant by its value to 15 digits (exactly, where it is rational), anything else as sympy simplifies it."""
    import sympy

    read = [value for value in _parsed(answer) if isinstance(value, sympy.Basic)]
    if not read:
        return None
    value = sympy.simplify(read[0])
    if not isinstance(value, sympy.Expr):
        return str(value)
    value = sympy.expand(value)
    if not value.is_number:
        return str(value)
    exact = sympy.nsimplify(value, rational=True) if value.is_Float else value
    return str(exact) if exact.is_Rational else str(sympy.N(exact, 15))


def _serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the parent closes the pipe. The alarm kills this process even inside C code."""
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    replies.write(json.dumps({"ready": _compare("1", "1")}) + "\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s") + 1.0)
        try:
            found = _compare(**request) if "truth" in request else _canonical(**request)
        except Exception:  # noqa: BLE001 - boundary: an expression that math-verify chokes on is not the right one
            found = None if "truth" not in request else False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        replies.write(json.dumps({"found": found}) + "\n")
        replies.flush()


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
