"""What code does to the trainer and to its neighbours: nothing. Every attack, at every level."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from sandbox import KernelPool, KernelSession
from sandbox.kernel.supervisor import descendants
from sandbox.proof.attacks import FAMILIES, TRAINER, Attack
from sandbox.proof.endure import endure
from sandbox.watchdog import _awake

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROWTH_MIB = 256
OTHERS = [attack for family, attacks in FAMILIES.items() if family != "trainer" for attack in attacks]


REPEATED = ("deep-contents", "empty-messages", "long-line-of-code", "forty-sessions", "awake-again")
"""Slow: another one shows the same in a plain run."""
ALL = [pytest.param(a, id=a.name, marks=[pytest.mark.slow] if a.name in REPEATED else []) for a in TRAINER]


async def _held(pools, kind: str, attack: Attack) -> None:
    pool = await pools(kind)
    async with pool.session() as session, pool.session() as neighbour:
        endured = await endure(session, neighbour, attack)
        assert endured.result.status in attack.expected, endured.result.to_text()
        assert (endured.after.status, endured.after.result) == ("ok", "2"), endured.after.to_text()
        assert endured.growth_mib < GROWTH_MIB
        names = session.workspace.list()
        "\n".join(names).encode()


@pytest.mark.parametrize("attack", ALL)
async def test_the_trainer_and_a_neighbour_notice_nothing(pools, kind, attack):
    await _held(pools, kind, attack)


@pytest.mark.slow
@pytest.mark.parametrize("attack", OTHERS, ids=lambda attack: attack.name)
async def test_nor_of_any_other_attack(pools, kind, attack):
    await _held(pools, kind, attack)


@pytest.fixture
def no_groups(monkeypatch):
    """As on a machine where the trainer may not make control groups."""

    def refuse():
        raise OSError("not here")

    monkeypatch.setattr("sandbox.pool.Groups", refuse)


@pytest.mark.usefixtures("no_groups")
async def test_code_that_is_woken_again_and_again_is_killed(open_pool, kind):
    """Here by the test, so that it happens for certain: code has no less power over its own processes."""
    async with await open_pool(kind, warm=0, preload=()) as pool, pool.session() as session:
        await session.execute("import threading\ndef spin():\n while True: pass\nthreading.Thread(target=spin).start()")
        kernel = session.kernel
        async with asyncio.timeout(60):
            while kernel.alive():
                kernel.signal(signal.SIGCONT)
                await asyncio.sleep(0.01)
        assert kernel.kill_reason.text == "the code went on running after its execution had ended"
        assert (await session.execute("1 + 1")).result == "2"


@pytest.mark.usefixtures("no_groups")
async def test_code_that_wakes_itself_comes_to_rest(open_pool, kind):
    """It is killed, or dies of its own flood, or stopping it catches all of it at once."""
    attack = next(a for a in TRAINER if a.name == "awake-again")
    async with await open_pool(kind, warm=0, preload=()) as pool, pool.session() as session:
        await session.execute(attack.code)
        kernel = session.kernel
        at_rest = 0
        async with asyncio.timeout(60):
            while kernel.alive() and at_rest < 10:
                await asyncio.sleep(0.1)
                at_rest = 0 if _awake(kernel) else at_rest + 1
        if kernel.alive():
            await session.restart()  # it would go on flooding with the next execution
        assert (await session.execute("1 + 1")).result == "2"


async def test_nothing_of_a_fork_bomb_is_left(open_pool, kind):
    pool = await open_pool(kind, warm=0, preload=())
    async with pool:
        async with pool.session():
            pass
        before = descendants(os.getpid())
        async with pool.session() as session:
            bomb = next(attack for attack in FAMILIES["bomb"] if attack.name == "forks")
            await session.execute(bomb.code, timeout=bomb.seconds)
        assert [pid for pid in descendants(os.getpid()) if pid not in before and _runs(pid)] == []


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return b") Z" not in file.read()
    return False


@pytest.mark.slow
async def test_three_hundred_sessions_leave_nothing(open_pool, kind):
    pool = await open_pool(kind, warm=0, preload=())
    async with pool:
        for number in range(300):
            async with pool.session() as session:
                await session.execute("open('f', 'w').write('x')")
            if number == 9:  # what is opened once and kept
                before = _left(pool)
        assert _left(pool) == before


def _left(pool: KernelPool) -> tuple[int, int, list[str]]:
    """Descriptors and processes of the trainer, and what lies in the pool's folder."""
    assert pool._folder is not None
    running = [pid for pid in descendants(os.getpid()) if _runs(pid)]
    return len(os.listdir("/proc/self/fd")), len(running), sorted(os.listdir(pool._folder.path))


@pytest.fixture
def many_descriptors():
    """Numbers over 1,024 are in use in the trainer."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip("this user may not open as many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, before[1]))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
async def test_no_descriptor_of_the_trainer_reaches_code(open_pool, kind):
    code = "import os, stat\n[f for f in range(3, 4096) if os.path.exists(f'/proc/self/fd/{f}')]"
    pool = await open_pool(kind, warm=0, preload=())
    async with pool, pool.session() as session:
        result = await session.execute(code)
        assert max(eval(result.result)) < 200, result


async def test_a_session_that_spoilt_itself_can_be_restarted(pools, kind):
    pool = await pools(kind)
    async with pool.session() as session:
        session.workspace.write("kept", b"1")
        await session.execute("import builtins\nfor name in list(vars(builtins)): delattr(builtins, name)", timeout=1)
        await session.restart()
        result = await session.execute("open('kept').read()")
        assert (result.status, result.result, result.kernel_restarted) == ("ok", "'1'", False)


async def test_no_time_at_all_is_not_the_default(session: KernelSession):
    assert (await session.execute("while True: pass", timeout=0)).status in ("timeout", "killed_timeout")
