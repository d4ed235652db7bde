"""One attack on one session, seen from the trainer: what became of it, of the trainer and of a neighbour."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from sandbox.proof.attacks import Attack
from sandbox.result import ExecutionResult
from sandbox.session import KernelSession

_REST_SECONDS = 1.0


@dataclass(frozen=True)
class Endured:
    """What one attack did."""

    result: ExecutionResult
    after: ExecutionResult
    """Of `1 + 1` in the same session, later."""
    neighbour_seconds: float
    """Longest `1 + 1` of another session meanwhile."""
    growth_mib: int
    """Most memory of the trainer meanwhile, over what it had before."""


async def endure(session: KernelSession, neighbour: KernelSession, attack: Attack) -> Endured:
    """Run `attack`, let the session rest for a moment, then ask it something; the neighbour works all the time."""
    await neighbour.execute("1 + 1")
    before = _resident_mib()
    slowest, most = 0.0, before
    over = asyncio.Event()

    async def work() -> None:
        nonlocal slowest, most
        while not over.is_set():
            began = time.monotonic()
            result = await neighbour.execute("1 + 1")
            assert result.result == "2", result
            slowest, most = max(slowest, time.monotonic() - began), max(most, _resident_mib())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    try:
        result = await session.execute(attack.code, timeout=attack.seconds)
        await asyncio.sleep(_REST_SECONDS)
        after = await session.execute("1 + 1")
        if not after.ok:  # what still was on its way may have cost this one
            after = await session.execute("1 + 1")
    finally:
        over.set()
        await task
    return Endured(result, after, slowest, most - before)


def _resident_mib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
