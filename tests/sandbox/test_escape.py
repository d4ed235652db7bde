"""Getting out: every attempt of `sandbox.proof.checks` fails at every level, and works where there is no isolation."""

from __future__ import annotations

import json
import os
import platform

import pytest

from sandbox import KernelSession
from sandbox.kernel.landlock import SIGNAL_SCOPE_ABI, available_abi
from sandbox.proof.checks import CHECKS, EXISTENCE, SYSCALLS, Check
from sandbox.proof.planted import planted

LEVELS = 2
pytestmark = pytest.mark.asyncio(loop_scope="module")


def _known_here(check: Check) -> bool:
    return check not in SYSCALLS or platform.machine() == "x86_64"


async def _try_all(session: KernelSession, other: KernelSession) -> dict[str, str]:
    told = {}
    hidden = (EXISTENCE,) if session.kernel.way.level == "namespace" else ()
    with planted(session, other) as bait:
        for check in filter(_known_here, (*CHECKS, *hidden)):
            result = await session.execute(check.source(bait))
            assert result.status == "ok", (check.name, result.to_text())
            told[check.name] = result.stdout
        os.kill(json.loads(bait)["victim"], 0)  # it is still there
    return told


async def test_no_attempt_gets_out(pools, kind):
    pool = await pools(kind)
    async with pool.session() as session, pool.session() as other:
        told = await _try_all(session, other)
    assert {name: text for name, text in told.items() if not text.startswith("HELD")} == {}


HELD_BY_SUPERVISOR = {
    *("memory-of-another-process", "syscall-process-vm-readv", "secret-environment-of-others"),
    *("signal-through-pidfd", "signal-another-process"),
}


async def test_negative_control_without_isolation_they_get_out(pools):
    pool = await pools("none")
    async with pool.session() as session, pool.session() as other:
        told = await _try_all(session, other)
    expected = {check.name for check in filter(_known_here, CHECKS) if check.open_without}
    if available_abi() >= SIGNAL_SCOPE_ABI:  # the supervisor is to end its own children only
        expected -= HELD_BY_SUPERVISOR
    assert {name for name in expected if not told[name].startswith("ESCAPED")} == set()


@pytest.mark.slow
@pytest.mark.parametrize("abi", [1, 3, 5])
async def test_older_landlock_still_holds(open_pool, monkeypatch, abi):
    """Without Landlock's rules for signals, devices and network, seccomp has to do it."""
    from sandbox.provisioners.levels import Landlock

    monkeypatch.setattr(Landlock, "pretend_abi", abi)
    pool = await open_pool("process", warm=0)
    async with pool, pool.session() as session, pool.session() as other:
        told = await _try_all(session, other)
    assert {name: text for name, text in told.items() if not text.startswith("HELD")} == {}
