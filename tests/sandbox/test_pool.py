"""The pool: bounded, warm, refusing, counting, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from sandbox import KernelPool, SandboxError, SandboxUnavailableError
from sandbox.live import CLOSED
from sandbox.pool import DEFAULT_PRELOAD
from sandbox.provisioners.levels import Landlock

FAST = {"preload": ()}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def base():
    """A folder with a short name that kernels' users may pass."""
    folder = tempfile.mkdtemp(prefix="sb-", dir="/tmp")
    os.chmod(folder, 0o755)
    yield folder
    os.rmdir(folder)


async def test_nothing_is_left_behind(open_pool, kind, base):
    await (await open_pool(kind, **FAST)).close()  # what the event loop opens once and keeps
    before = open_descriptors()
    pool = await open_pool(kind, base_dir=base, **FAST)
    async with pool.session() as session:
        await session.execute("import os\nif os.fork() == 0:\n os.setsid()\n import time; time.sleep(1000)")
        pids = [session.kernel.pid, session.kernel.kernel_pid()]
        folder = session.folder
    assert not _exists(folder)
    await pool.close()
    await pool.close()
    assert os.listdir(base) == []
    assert [pid for pid in pids if not _gone(pid)] == []
    assert open_descriptors() <= before


def _exists(path: str) -> bool:
    return Path(path).exists()


def _gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    return True


async def test_one_loud_line_says_the_level(open_pool, kind, caplog):
    with caplog.at_level(logging.WARNING, logger="sandbox"):
        pool = await open_pool(kind, warm=0, **FAST)
    await pool.close()
    assert [record.message for record in caplog.records] == [pool.statement]
    assert pool.statement.startswith(f"sandbox isolation level = {kind}")


async def test_sessions_are_apart_and_bounded(open_pool, kind):
    pool = await open_pool(kind, max_kernels=2, **FAST)
    async with pool:
        async with pool.session() as one, pool.session() as two:
            one.workspace.write("f", b"one")
            await one.execute("x = 1")
            result = await two.execute("import os; (os.listdir('.'), 'x' in globals())")
            assert result.result == "([], False)"
            third = asyncio.create_task(pool.session().__aenter__())
            await asyncio.sleep(0.3)
            assert not third.done()
        await asyncio.wait_for(third, 60)
        assert (pool.counters.executions, pool.counters.restarts) == (2, 0)


async def test_counters(open_pool, kind):
    pool = await open_pool(kind, warm=0, **FAST)
    async with pool, pool.session() as session:
        await session.execute("while True: pass", timeout=0.3)
        await session.execute("import os; os._exit(1)")
    assert (pool.counters.executions, pool.counters.timeouts) == (2, 1)
    assert pool.counters.restarts in (1, 2)  # on a busy machine the loop is killed instead of interrupted


async def test_a_kernel_that_died_while_warm_is_not_handed_out(open_pool, kind):
    pool = await open_pool(kind, warm=1, **FAST)
    async with pool:
        spare = pool._ready[0]
        await spare.kernel.kill(CLOSED)
        async with pool.session() as session:
            assert session is not spare
            assert (await session.execute("1 + 1")).result == "2"


async def until(true, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.02)


async def test_spares_are_made_again_once_sessions_end(open_pool, kind):
    """As many as there may be were in use at once: none could be made meanwhile."""
    pool = await open_pool(kind, warm=2, max_kernels=2, **FAST)
    async with pool:
        await until(lambda: len(pool._ready) == 2)
        async with pool.session(), pool.session():
            assert not pool._ready
        await until(lambda: len(pool._ready) == 2)


async def test_code_that_runs_goes_before_spares(open_pool, kind, monkeypatch):
    """For a spare nobody waits. Where a processor is free they are made."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    pool = await open_pool(kind, warm=1, **FAST)
    async with pool, pool.session() as session:
        await until(lambda: pool._ready)
        running = asyncio.create_task(session.execute("import time; time.sleep(600)", timeout=600))
        await until(lambda: pool.counters.running == 1)
        async with pool.session() as other:
            assert (await other.execute("1 + 1")).result == "2"
            await asyncio.sleep(1.0)
            assert not pool._ready
            running.cancel()
            await until(lambda: pool._ready)
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert pool.counters.running == 0


async def test_a_closed_session_refuses(open_pool, kind):
    pool = await open_pool(kind, warm=0, **FAST)
    async with pool:
        async with pool.session() as session:
            pass
        with pytest.raises(SandboxError, match="closed"):
            await session.execute("1")
    with pytest.raises(SandboxError):
        async with pool.session():
            pass


async def test_a_dead_fork_server_is_replaced(open_pool, kind):
    pool = await open_pool(kind, warm=0, **FAST)
    async with pool, pool.session() as session:
        session.workspace.write("in/data.csv", b"1")
        server = pool._choice.forkserver._process
        server.kill()
        server.wait()
        result = await session.execute("1 + 1")
        if not result.ok:  # the kernel was on its way out when the code was sent
            result = await session.execute("1 + 1")
        assert result.result == "2"
        assert (await session.execute("open('in/data.csv').read()")).result == "'1'"


CROSS_VALIDATION = """
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
print(cross_val_score(LogisticRegression(max_iter=500), *load_iris(return_X_y=True), n_jobs=-1).mean() > 0.9)
"""


async def test_honest_work_in_parallel_where_the_libraries_are_preloaded(open_pool):
    pool = await open_pool("process", warm=0, preload=DEFAULT_PRELOAD)
    async with pool, pool.session() as session:
        assert (await session.execute(CROSS_VALIDATION, timeout=60)).to_text() == "True"


async def test_without_bubblewrap_the_next_level_is_taken_and_said(monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else which(name))
    with pytest.raises(SandboxUnavailableError, match="bubblewrap is not installed"):
        await KernelPool(require="namespace", warm=0, preload=()).start()
    async with KernelPool(warm=0, preload=()) as pool:
        assert pool.level == "process"
        assert "not used: namespace: bubblewrap is not installed" in pool.statement


async def test_where_nothing_works_only_allow_unsafe_starts(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Landlock, "pretend_abi", -1)
    for settings in ({}, {"require": "none"}, {"require": "namespace", "allow_unsafe": True}):
        with pytest.raises(SandboxUnavailableError) as refused:
            await KernelPool(warm=0, preload=(), **settings).start()
        assert "\n" not in str(refused.value)
    async with KernelPool(warm=0, preload=(), allow_unsafe=True) as pool, pool.session() as session:
        assert pool.level == "none"
        assert (await session.execute("1 + 1")).result == "2"


async def test_what_is_not_protected_has_to_be_accepted(monkeypatch):
    """An ordinary user at level `process` on a kernel whose Landlock does not know signals."""
    for module in ("sandbox.folder", "sandbox.pool"):
        monkeypatch.setattr(f"{module}.user_base", lambda: None, raising=False)
    monkeypatch.setattr("sandbox.provisioners.choice.available_abi", lambda: 5)
    with pytest.raises(SandboxUnavailableError, match=r"sandbox\.accept=\[fork-bombs\]") as refused:
        await KernelPool(level="process", warm=0, preload=()).start()
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="only fork-bombs can be accepted"):
        KernelPool(accept=["everything"])
    if os.geteuid():
        async with KernelPool(level="process", warm=0, preload=(), accept=["fork-bombs"]) as pool:
            assert pool.level == "process"


async def test_no_kernel_is_root(open_pool, kind):
    pool = await open_pool(kind, warm=0, **FAST)
    async with pool, pool.session() as session:
        result = await session.execute("import os; 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups())")
    assert result.result == "False"


@pytest.mark.parametrize(("name", "kind_"), [("sandbox-namespace", "namespace"), ("sandbox-process", "process")])
async def test_a_plain_kernel_manager_can_use_the_provisioners(name, kind_, open_pool):
    """The ecosystem's own extension point: a kernelspec names the provisioner, nothing else of ours is used."""
    await (await open_pool(kind_, warm=0)).close()
    if name not in {entry.name for entry in entry_points(group="jupyter_client.kernel_provisioners")}:
        pytest.skip("the project is not installed with its entry points: pip install -e .")
    manager = AsyncKernelManager()
    metadata = {"kernel_provisioner": {"provisioner_name": name}}
    spec = KernelSpec(argv=["python"], display_name="sandbox", language="python", metadata=metadata)
    manager._kernel_spec = spec
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive("assert 6 * 7 == 42", timeout=60)
        assert reply["content"]["status"] == "ok"
        await manager.restart_kernel(now=True)
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive("assert 6 * 7 == 42", timeout=60)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


TRAINER = """
import asyncio, json, os, sys
from sandbox import KernelPool
async def main():
    pool = await KernelPool(warm=1, preload=(), level=sys.argv[1], base_dir=sys.argv[2], freeze=False).start()
    async with pool.session() as session:
        await session.execute('''
import os, time
try: open('/dev/shm/left', 'w').write('x')
except OSError: pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(0.1)
    os._exit(0)
''')
        from sandbox.kernel.supervisor import descendants
        print(json.dumps(descendants(os.getpid())), flush=True)
        await asyncio.sleep(1000)
asyncio.run(main())
"""


def _trainer(kind: str, base: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", TRAINER, kind, base], stdout=subprocess.PIPE, text=True)


async def test_a_killed_trainer_leaves_nothing(open_pool, kind, base):
    """SIGKILL: every process dies by itself; the folder goes at the next start."""
    await (await open_pool(kind, warm=0, **FAST)).close()
    trainer = _trainer(kind, base)
    try:
        pids = json.loads(await asyncio.to_thread(trainer.stdout.readline))
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
    assert len(pids) > 3
    for _ in range(200):
        alive = [pid for pid in pids if not _gone(pid)]
        if not alive:
            break
        await asyncio.sleep(0.05)
    assert alive == []
    assert len(os.listdir(base)) == 1
    await (await open_pool(kind, warm=0, base_dir=base, **FAST)).close()
    assert os.listdir(base) == []
    assert not _exists("/dev/shm/left")


def test_another_event_loop_will_do():
    """Servers run on uvloop where it is installed."""
    import uvloop

    async def ask() -> list[str]:
        async with KernelPool(warm=0, preload=[]) as pool, pool.session() as session:
            first = await session.execute("x = 20 + 1; x")
            lost = await session.execute("import os; os._exit(1)")
            return [first.result, str(lost.status), (await session.execute("1 + 1")).result]

    assert uvloop.run(ask()) == ["21", "died", "2"]
