"""Control groups: real ones where this machine lets the caller make them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.cgroup import CONTROLLERS, Group, Groups, own_group
from sandbox.limits import ResourceLimits
from sandbox.proof.attacks import TRAINER


@pytest.fixture
def groups():
    """A pool's; skips where there can be none."""
    try:
        made = Groups()
    except OSError as error:
        pytest.skip(f"no control groups here: {error}")
    yield made
    made.close()
    assert not Path(made.path).exists()


@pytest.mark.parametrize(("groups_", "mounts", "folder"), [
    ("0::/user.slice/a.scope", "41 31 0:28 / /sys/fs/cgroup rw - cgroup2 c rw", "/sys/fs/cgroup/user.slice/a.scope"),
    ("8:pids:/\n0::/", "40 31 0:27 / /x rw - cgroup cgroup rw,pids\n41 31 0:28 / /u rw - cgroup2 c rw", "/u"),
    ("0::/docker/7/leaf", "41 31 0:28 /docker/7 /sys/fs/cgroup rw - cgroup2 cgroup rw", "/sys/fs/cgroup/leaf"),
])  # fmt: skip
def test_where_the_own_group_lies(groups_, mounts, folder):
    assert own_group(groups_, mounts) == folder


@pytest.mark.parametrize(("groups_", "mounts"), [
    ("0::/", "40 31 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"),
    ("0::/docker/71", "41 31 0:28 /docker/7 /sys/fs/cgroup rw - cgroup2 cgroup rw"),
    ("8:pids:/", "41 31 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw"),
])  # fmt: skip
def test_no_group_is_said(groups_, mounts):
    with pytest.raises(OSError, match="version 2"):
        own_group(groups_, mounts)


CHAIN = "import os, time\nend = time.time() + 120\nwhile time.time() < end:\n if os.fork(): os._exit(0)"
"""Never one process for long."""


def _used(group: Group) -> int:
    return int(Path(f"{group.path}/cpu.stat").read_text().split()[1])


def _wait_for(group: Group, event: str) -> None:
    end = time.monotonic() + 60
    while event not in Path(f"{group.path}/cgroup.events").read_text().splitlines():
        assert time.monotonic() < end, event
        time.sleep(0.01)


def test_what_never_holds_still_is_frozen_and_killed(groups):
    group = groups.make("chain", ResourceLimits(processes=8))
    with subprocess.Popen([sys.executable, "-c", f"input()\n{CHAIN}"], stdin=subprocess.PIPE) as process:
        group.add(process.pid)
        process.communicate(b"\n")
    group.freeze(True)
    _wait_for(group, "frozen 1")
    used = _used(group)
    time.sleep(0.3)
    assert _used(group) == used
    _wait_for(group, "populated 1")
    group.kill()
    _wait_for(group, "populated 0")
    group.remove()
    assert not Path(group.path).exists()


def test_as_many_tasks_as_the_group_may_have(groups):
    if "pids" not in groups.controllers:
        pytest.skip("the trainer's group has no controller of tasks")
    group = groups.make("tasks", ResourceLimits(processes=8))
    code = "import os, time\ninput()\nfor i in range(50):\n if os.fork() == 0: time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        group.add(process.pid)
        process.communicate(b"\n")
    assert "max 0" not in Path(f"{group.path}/pids.events").read_text().splitlines()
    group.kill()
    group.remove()


def test_too_much_memory_kills_all_of_the_group(groups):
    if "memory" not in groups.controllers:
        pytest.skip("the trainer's group has no controller of memory")
    limits = ResourceLimits(total_memory_mib=16, workspace_mib=16, tmp_mib=16)
    group = groups.make("memory", limits)
    code = "import os, time\ninput()\nif os.fork(): time.sleep(60)\nx = bytearray(b'x' * (200 << 20)); time.sleep(60)"
    assert not group.out_of_memory()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        group.add(process.pid)
        process.communicate(b"\n")
        assert process.returncode == -9
    assert group.out_of_memory()
    group.remove()


@pytest.mark.usefixtures("groups")
async def test_a_kernel_that_wakes_itself_stays_frozen(open_pool, kind):
    attack = next(a for a in TRAINER if a.name == "awake-again")
    async with await open_pool(kind, warm=0, preload=()) as pool, pool.session() as session:
        await session.execute(attack.code, timeout=attack.seconds)
        group = session.kernel.group
        await asyncio.to_thread(_wait_for, group, "frozen 1")
        used = _used(group)
        await asyncio.sleep(0.3)
        assert _used(group) == used
        assert session.kernel.alive()
        path = group.path
        await session.restart()  # it would go on flooding with the next execution
        assert (await session.execute("1 + 1")).result == "2"
        assert os.path.basename(path) not in os.listdir(os.path.dirname(path))


async def test_what_the_system_killed_for_its_memory_is_told_so(open_pool, kind, tmp_path, monkeypatch):
    """A folder stands for the group: machines whose groups know memory are few."""
    monkeypatch.setattr("sandbox.cgroup._REMOVE_SECONDS", 0)
    async with await open_pool(kind, warm=0, preload=()) as pool, pool.session() as session:
        session.kernel.freeze(False)
        session.kernel.group = Group(str(tmp_path / "group"), session.limits)
        (tmp_path / "group" / "cgroup.freeze").touch()
        (tmp_path / "group" / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 1\n")
        result = await session.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert result.status == "killed_memory"
        assert result.notice.startswith("the code used more than 900 MiB of memory")
        assert (await session.execute("1 + 1")).result == "2"


IN_A_GROUP = """
import json, os, signal, subprocess, sys
from sandbox.cgroup import Groups, own_group
def own(): return own_group(open("/proc/self/cgroup").read(), open("/proc/self/mountinfo").read())
leaf = sys.argv[1] + "/mappa-trainer"  # a group whose controllers are shared out takes no process
with open((leaf if os.path.exists(leaf) else sys.argv[1]) + "/cgroup.procs", "w") as file: file.write("0")
if sys.argv[2] == "stranger": subprocess.run(["setsid", "--fork", "sleep", "60"], stdout=subprocess.DEVNULL)
groups = Groups()
again = Groups()
print(json.dumps([groups.path, again.path, groups.controllers, own()]), flush=True)
if sys.argv[2] == "killed": os.kill(os.getpid(), signal.SIGKILL)
again.close(); groups.close()
"""


@pytest.fixture
def delegated(groups):
    """A group as one gets it from others, below the pools'."""
    above = Path(f"{Path(groups.path).parent}/test-{os.getpid()}")
    above.mkdir()
    yield above
    with contextlib.suppress(FileNotFoundError):
        (above / "cgroup.kill").write_text("1")
    while True:
        with contextlib.suppress(OSError):
            for folder in above.glob("*/"):
                folder.rmdir()
            above.rmdir()
            return
        time.sleep(0.01)


def _start_in(folder: Path, how: str) -> list:
    """(group of a pool, of another, controllers, own group then) of a trainer that was started in that group."""
    command = [sys.executable, "-c", IN_A_GROUP, str(folder), how]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=how != "killed").stdout)


def test_a_trainer_that_is_alone_in_its_group_makes_room(delegated):
    offered = [name for name in CONTROLLERS if name in (delegated / "cgroup.controllers").read_text().split()]
    first, second, controllers, own = _start_in(delegated, "alone")
    assert [str(Path(path).parent) for path in (first, second)] == [str(delegated)] * 2
    assert controllers == offered
    assert own == (f"{delegated}/mappa-trainer" if offered else str(delegated))


def test_a_trainer_that_is_not_alone_stays_where_it_is(delegated):
    first, _, controllers, own = _start_in(delegated, "stranger")
    assert (str(Path(first).parent), controllers, own) == (str(delegated), [], str(delegated))


def test_groups_of_a_killed_trainer_go_at_the_next_start(delegated):
    left, also_left, _, _ = _start_in(delegated, "killed")
    assert Path(left).exists()
    _start_in(delegated, "alone")
    assert not Path(left).exists()
    assert not Path(also_left).exists()
