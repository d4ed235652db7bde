# ruff: noqa: T201
"""The work behind `python -m sandbox`. These functions print; they return an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sandbox.cgroup import CONTROLLERS, Groups
from sandbox.errors import SandboxUnavailableError
from sandbox.isolation import IsolationLevel
from sandbox.kernel.landlock import available_abi
from sandbox.kernel.supervisor import descendants
from sandbox.pool import KernelPool
from sandbox.proof.attacks import LIMITS, Attack
from sandbox.proof.checks import SYSCALLS, Check
from sandbox.proof.endure import Endured, endure
from sandbox.proof.planted import planted
from sandbox.proof.table import LEVELS, TABLE, render
from sandbox.provisioners.choice import GAPS, WAYS, describe
from sandbox.session import KernelSession
from sandbox.watchdog import proportional

_HINTS = """
To get level namespace, install bubblewrap >= 0.8 (Debian, Ubuntu: apt-get install bubblewrap; Fedora, RHEL:
dnf install bubblewrap; Arch: pacman -S bubblewrap; Alpine: apk add bubblewrap). If it is installed but not allowed:
  Ubuntu 24.04   an AppArmor profile for /usr/bin/bwrap with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0
  Debian, old    sysctl kernel.unprivileged_userns_clone=1
  Docker         --security-opt seccomp=unconfined --security-opt systempaths=unconfined (or a rootless runtime)
More in sandbox/README.md."""  # noqa: E501

_DELEGATION = "systemd-run --user --scope -p Delegate=yes COMMAND (root: without --user)"


async def doctor() -> int:
    """Start one kernel of every kind."""
    print(f"{platform.platform()}, uid {os.geteuid()}, landlock ABI {available_abi()}\n")
    best: IsolationLevel | None = None
    for level in WAYS:
        pool = KernelPool(level=level, warm=0, preload=(), allow_unsafe=True)
        try:
            async with pool, pool.session() as session:
                works = (await session.execute("1 + 1")).result == "2"
                best = best or pool.level
                print(f"{level:10} {'works' if works else 'FAILS':6} {describe(level)}")
        except SandboxUnavailableError as error:
            print(f"{level:10} {'no':6} {error}")
    try:
        groups = Groups()
    except OSError as error:
        print(f"{'groups':10} {'no':6} {error}; to have them: {_DELEGATION}")
    else:
        more = "" if len(groups.controllers) == len(CONTROLLERS) else f"; for {', '.join(CONTROLLERS)}: {_DELEGATION}"
        print(f"{'groups':10} {'works':6} {groups.describe()}{more}")
        groups.close()
    print(f"\nBest level here: {best}.")
    if best is not IsolationLevel.NAMESPACE:
        print(_HINTS)
    return 0 if best not in (None, IsolationLevel.NONE) else 1


MARKS = ("<!-- made by `python -m sandbox self-check --write` -->\n", "<!-- end of what it made -->\n")
NEIGHBOUR_SECONDS, GROWTH_MIB = 0.25, 256


async def self_check(level: str, write: str | None = None) -> int:
    """Try every claim of `sandbox.proof.table` here, and write the README's table if all of them hold."""
    failures = tried = 0
    for each in LEVELS:
        if level in ("auto", each):
            try:
                failed = await _check_level(each)
            except SandboxUnavailableError as error:
                print(f"SKIP {each:10} {error}")
                continue
            tried += 1
            failures += failed
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    print(f"{failures} claims failed" if failures else f"every claim held, as {user}, at {tried} levels")
    if write is not None and tried and not failures:
        text = await asyncio.to_thread(Path(write).read_text, encoding="utf-8")
        before, _, rest = text.partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        made = f"{before}{MARKS[0]}{render()}{MARKS[1]}{after}"
        await asyncio.to_thread(Path(write).write_text, made, encoding="utf-8")
    return 1 if failures or not tried else 0


async def _check_level(level: IsolationLevel) -> int:
    """Prints a line for each claim; returns how many failed."""
    pool = KernelPool(LIMITS, level=level, warm=0, preload=("numpy",), allow_unsafe=True, accept=GAPS)
    failed = 0
    seen: list[Endured] = []
    async with pool:
        print(pool.statement)
        for row in TABLE:
            wrong = [await _try(pool, attempt, seen) for attempt in row.shown_by if row.claims(level)]
            wrong = [text for text in wrong if text]
            failed += bool(wrong)
            said = "OPEN" if not row.claims(level) else "FAIL" if wrong else "PASS"
            print(f"{said} {level:10} {row.title}{': ' if wrong else ''}{'; '.join(wrong)}", flush=True)
    slowest, most = max(one.neighbour_seconds for one in seen), max(one.growth_mib for one in seen)
    print(
        f"of {len(seen)} attacks, repeated ones counted, the worst: a neighbour's 1 + 1 took {slowest * 1e3:.0f} ms, "
        f"the trainer grew by {most} MiB (load {os.getloadavg()[1]:.1f})"
    )
    return failed


async def _try(pool: KernelPool, attempt: Attack | Check, seen: list[Endured]) -> str:
    """What went wrong; empty where it held. What attacks did is added to `seen`."""
    if isinstance(attempt, Attack):
        return await _try_attack(pool, attempt, seen)
    if attempt in SYSCALLS and platform.machine() != "x86_64":
        return ""
    async with pool.session() as session, pool.session() as other:
        with planted(session, other) as bait:
            result = await session.execute(attempt.source(bait))
    return "" if result.stdout.startswith("HELD") else f"{attempt.name}: {result.to_text(200)}"


async def _try_attack(pool: KernelPool, attack: Attack, seen: list[Endured], again: int = 2) -> str:
    async with pool.session() as session, pool.session() as other:
        alone = max([await _seconds(other, "1 + 1") for _ in range(50)])
        endured = await endure(session, other, attack)
    seen.append(endured)
    found = {
        f"ended as {endured.result.status}": endured.result.status not in attack.expected,
        "the session did not go on": endured.after.result != "2",
        f"the trainer grew by {endured.growth_mib} MiB": endured.growth_mib > GROWTH_MIB,
    }
    wrong = ", ".join(text for text, is_so in found.items() if is_so)
    if not wrong and endured.neighbour_seconds > NEIGHBOUR_SECONDS + alone:
        if again:  # others may have used the machine
            return await _try_attack(pool, attack, seen, again - 1)
        wrong = f"a neighbour waited {endured.neighbour_seconds * 1e3:.0f} ms (before: {alone * 1e3:.0f})"
    return f"{attack.name}: {wrong}" if wrong else ""


async def bench(level: str, kernels: int) -> int:
    """Starts, round trips and memory of one level."""
    started = time.perf_counter()
    pool = KernelPool(level=level, warm=0, max_kernels=kernels, allow_unsafe=True)
    async with pool:
        print(pool.statement)
        print(f"pool ready, libraries imported: {time.perf_counter() - started:.2f} s")
        async with pool.session() as session:  # the one the pool tried itself with
            trips = [await _seconds(session, "1") for _ in range(100)]
            print(f"round trip: median {statistics.median(trips) * 1e3:.1f} ms, worst {max(trips) * 1e3:.1f} ms")
            code = "import pandas, sklearn.ensemble"
            print(f"import of pandas and scikit-learn in a cell: {await _seconds(session, code):.2f} s")
        starts = []
        for _ in range(5):
            began = time.perf_counter()
            async with pool.session():
                starts.append(time.perf_counter() - began)
        print(f"start, one at a time: median {statistics.median(starts) * 1e3:.0f} ms")
        began = time.perf_counter()
        async with _many(pool, kernels) as sessions:
            took = time.perf_counter() - began
            print(f"{kernels} sessions at once: ready in {took:.1f} s ({took / kernels * 1e3:.0f} ms each)")
            print(f"memory: {await asyncio.to_thread(_mib, sessions) / kernels:.0f} MiB each (shared pages split)")
            began = time.perf_counter()
            await asyncio.gather(*(session.execute("import time; time.sleep(2)") for session in sessions))
            print(f"all sleep 2 s at once: {time.perf_counter() - began:.2f} s")
    async with KernelPool(level=level, warm=1, preload=(), allow_unsafe=True) as pool:
        began = time.perf_counter()
        async with pool.session():
            print(f"session from a warm spare: {(time.perf_counter() - began) * 1e3:.1f} ms")
    return 0


async def _seconds(session: KernelSession, code: str) -> float:
    began = time.perf_counter()
    result = await session.execute(code)
    if not result.ok:
        raise SystemExit(result.to_text())
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def _many(pool: KernelPool, number: int) -> AsyncIterator[list[KernelSession]]:
    contexts = [pool.session() for _ in range(number)]
    sessions = await asyncio.gather(*(context.__aenter__() for context in contexts))
    try:
        yield sessions
    finally:
        await asyncio.gather(*(context.__aexit__(None, None, None) for context in contexts))


def _mib(sessions: list[KernelSession]) -> int:
    """Proportional sizes of all processes of all kernels."""
    kernels = [session.kernel for session in sessions if session.kernel is not None]
    return sum(proportional(pid) for kernel in kernels for pid in (kernel.pid, *descendants(kernel.pid))) >> 20
