"""Exhausting and hanging: code that loops, forks, fills, floods, dies and stays. One property each, at every level.

After each of them the same session answers `1 + 1` (the `session` fixture).
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from sandbox import KernelSession
from sandbox.proof.attacks import FAMILIES, KERNEL, Attack

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPEATED = {
    *("ignoring-sigint", "stopping-itself", "endless-async"),
    *("recursion-in-c", "shared-memory-files", "deleted-but-open"),
    *("let-go-but-kept", "memory-of-sockets", "mapped-and-deleted", "descriptors-on-their-way"),
    *("in-a-folder-nobody-may-list", "beyond-the-longest-path"),
    *("many-displays", "many-small-ones", "foreign-key", "closed-sockets", "no-modules"),
}
"""Slow: a quicker attack of their family shows the same property in a plain run."""
ALL = [
    pytest.param(
        attack,
        id=f"{family}-{attack.name}",
        marks=[pytest.mark.slow] if attack.seconds > 60 or attack.name in REPEATED else [],
    )
    for family, attacks in FAMILIES.items()
    if family != "trainer"
    for attack in attacks
]


@pytest.mark.parametrize("attack", ALL)
async def test_session_survives(session: KernelSession, attack: Attack):
    result = await session.execute(attack.code, timeout=attack.seconds)
    text = result.to_text(20_000)
    assert result.status in attack.expected, text
    assert attack.says in text
    assert len(text) < 21_000
    assert result.kernel_restarted == (result.status.startswith("killed_") or result.status == "died")
    if result.kernel_restarted:
        assert "variables and imports are lost, files in the working directory are kept" in text


async def test_interrupt_keeps_variables(session: KernelSession):
    await session.execute("x = 5")
    result = await session.execute("while True: pass", timeout=0.5)
    assert (result.status, "variables set so far are kept" in result.to_text()) == ("timeout", True)
    assert (await session.execute("x")).result == "5"


async def test_restart_keeps_files(session: KernelSession):
    session.workspace.write("in/data.csv", b"a,b\n1,2\n")
    await session.execute("open('own.txt', 'w').write('mine'); import os; os._exit(1)")
    result = await session.execute("open('own.txt').read() + open('in/data.csv').read()")
    assert result.result == repr("minea,b\n1,2\n")


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            with open('beat', 'a') as f: f.write('x')
            time.sleep(0.01)
    os._exit(0)
time.sleep(0.5)
"""


async def test_daemons_rest_between_executions_and_die_with_the_kernel(session: KernelSession):
    await session.execute(DAEMON)
    resting = len(session.workspace.read("beat"))
    assert resting > 0
    await asyncio.sleep(0.5)
    assert len(session.workspace.read("beat")) == resting
    await session.execute("import time; time.sleep(0.3)")
    assert len(session.workspace.read("beat")) > resting
    await session.execute("import os; os._exit(0)")
    dead = len(session.workspace.read("beat"))
    await session.execute("import time; time.sleep(0.3)")
    assert len(session.workspace.read("beat")) == dead


async def test_floods_between_executions_cost_the_client_nothing(session: KernelSession):
    flood = KERNEL + (
        "import threading\n"
        "def run():\n while True: k.session.send(k.iopub_socket, 'stream', {'name': 'stdout', 'text': 'f' * 10**6})\n"
        "threading.Thread(target=run, daemon=True).start()"
    )
    await session.execute(flood)
    before = _resident_mib()
    await asyncio.sleep(1.0)
    assert _resident_mib() - before < 64
    await session.execute("import os; os._exit(0)", timeout=5.0)


def _resident_mib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


async def test_cancelling_kills_the_code_and_the_session_goes_on(session: KernelSession):
    task = asyncio.create_task(session.execute("import time\nwhile True: time.sleep(0.01)"))
    await asyncio.sleep(0.3)
    kernel = session.kernel
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kernel is not None
    assert not kernel.alive()
    result = await session.execute("2 + 2")
    assert (result.result, result.kernel_restarted) == ("4", True)
    assert "variables and imports are lost" in result.to_text()


async def test_the_event_loop_stays_free(session: KernelSession):
    """While code runs, floods and is killed, other coroutines of the trainer get their turn."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    task = asyncio.create_task(beat())
    await session.execute("for i in range(200): print('x' * 10**6)")
    await session.execute("while True: pass", timeout=0.3)
    await session.execute("import os; os._exit(0)")
    task.cancel()
    assert longest < 10.0, "what blocks it blocks it for minutes"
