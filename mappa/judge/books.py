"""The ledger behind a thread of its own, so that a slow disk never holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mappa.judge.ledger import Ledger

Result = TypeVar("Result")


class Books:
    """Opens the ledger at the first use. Work that was handed in is done even if who waits for it is cancelled."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._ledger: Ledger | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def do(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Result of `method(ledger, ...)`, an unbound method of `Ledger`.

        Raises:
            JudgeError: the ledger cannot be opened.
            sqlite3.Error: it cannot be read or written.
        """
        return await asyncio.wrap_future(self.post(method, *args, **kwargs))

    def post(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Future[Result]:
        """Hand work in without waiting for it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "judge-ledger")
        return self._thread.submit(self._work, method, args, kwargs)

    async def close(self) -> None:
        """Finish all that was handed in, force it to the disk and close the file."""
        if self._thread is not None:
            if self._ledger is not None:
                await self.do(Ledger.close)
            self._thread.shutdown()
            self._ledger = self._thread = None

    def _work(self, method: Callable[..., Result], args: tuple, kwargs: dict[str, Any]) -> Result:
        if self._ledger is None:
            self._ledger = Ledger(self.path)
        return method(self._ledger, *args, **kwargs)
