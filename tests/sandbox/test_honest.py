"""Honest work must run at every level."""

from __future__ import annotations

import os
import subprocess

import pytest

from sandbox import KernelSession

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORK = {
    "state": ("x = 41", "print(x + 1)", "42"),
    "pandas": (
        "import pandas as pd",
        "pd.DataFrame({'a': [1, 2]}).to_csv('t.csv', index=False); print(pd.read_csv('t.csv').a.sum())",
        "3",
    ),
    "scikit-learn": (
        "from sklearn.ensemble import RandomForestClassifier\nfrom sklearn.datasets import make_classification",
        "X, y = make_classification(200, random_state=0)\n"
        "print(RandomForestClassifier(20, n_jobs=-1, random_state=0).fit(X, y).score(X, y) > 0.9)",
        "True",
    ),
    "accounts": (
        "import os, pwd, socket",
        "print(pwd.getpwuid(os.getuid()).pw_name, os.stat('/etc').st_mode & 5, socket.gethostbyname('localhost'))",
        "sandbox 5 127.0.0.1",
    ),
    "awk": ("import subprocess", "print(subprocess.check_output('echo a b | awk \"{print $2}\"', shell=True))", "b"),
    "joblib": (
        "from joblib import Parallel, delayed",
        "print(Parallel(n_jobs=-1)(delayed(pow)(i, 2) for i in range(4)))",
        "[0, 1, 4, 9]",
    ),
    "multiprocessing": (
        "import multiprocessing as mp",
        "with mp.Pool(2) as pool: print(pool.map(abs, [-1, -2, -3]))",
        "[1, 2, 3]",
    ),
    "subprocess": (
        "import subprocess, sys",
        "print(subprocess.check_output([sys.executable, '-c', 'print(6*7)']))",
        "42",
    ),
    "shell": ("!echo one > f", "!cat f", "one"),
    "sqlite": (
        "import sqlite3; db = sqlite3.connect('d.sqlite'); db.execute('create table t (a)')",
        "db.execute('insert into t values (7)'); db.commit(); print(db.execute('select a from t').fetchall())",
        "[(7,)]",
    ),
    "plot": (
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt",
        "plt.plot([1, 2]); plt.savefig('p.png'); import os; print(os.path.getsize('p.png') > 1000)",
        "True",
    ),
    "async": ("import asyncio\nawait asyncio.sleep(0.01)", "print(await asyncio.gather(asyncio.sleep(0, 3)))", "[3]"),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor",
        "with ThreadPoolExecutor(4) as e: print(sum(e.map(int, '1234')))",
        "10",
    ),
    "magics": ("%%capture out\nprint('hidden')", "%time print(out.stdout.strip())", "hidden"),
    "bash-cell": ("%%bash\necho from bash > b.txt", "print(open('b.txt').read())", "from bash"),
    "utf-8": ("s = 'Zürich → 東京 🎉'", "print(s); open('ü.txt', 'w').write(s)", "Zürich → 東京 🎉"),
    "surrogate": ("s = 'a\\ud800b'", "print(s); print('after')", "after"),
    "stderr": ("import sys", "print('to stderr', file=sys.stderr)", "to stderr"),
    "temporary-files": ("import tempfile", "with tempfile.NamedTemporaryFile() as f: print(f.write(b'xy'))", "2"),
    "home": ("import os", "open(os.path.expanduser('~/x'), 'w').write('1'); print('written')", "written"),
    "random": ("import random, numpy", "print(0 <= random.random() < 1, 0 <= numpy.random.rand() < 1)", "True True"),
}


def _may_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode == 0


async def test_shared_memory_is_of_one_kernel(pools, kind):
    pool = await pools(kind)
    async with pool.session() as one, pool.session() as two:
        await one.execute("open('/dev/shm/said', 'w').write('x')")
        assert (await two.execute("open('/dev/shm/said')")).error_name in ("FileNotFoundError", "PermissionError")
    assert "said" not in os.listdir("/dev/shm")


@pytest.mark.parametrize("name", list(WORK))
async def test_work(session: KernelSession, name: str):
    if name == "plot":
        pytest.importorskip("matplotlib")
    if name == "multiprocessing" and not (await session.execute("open('/dev/shm/x', 'w').write('')")).ok:
        assert session.kernel.way.level == "process"
        assert not _may_mount()
        pytest.skip("level process has semaphores, which lie in shared memory, only where the trainer may mount")
    if name == "accounts" and session.kernel.way.level == "process":
        pytest.skip("level process shows the machine's own accounts, in which a kernel's user has none")
    first, second, expected = WORK[name]
    prepared = await session.execute(first, timeout=60)
    assert prepared.status == "ok", prepared.to_text()
    result = await session.execute(second, timeout=60)
    assert result.status == "ok", result.to_text()
    assert expected in result.to_text()
    assert not result.kernel_restarted


async def test_kernels_do_not_share_randomness(pools, kind):
    pool = await pools(kind)
    async with pool.session() as one, pool.session() as two:
        code = "import random, numpy; (random.random(), numpy.random.rand())"
        assert (await one.execute(code)).result != (await two.execute(code)).result


PICTURE = """
import base64
from IPython.display import HTML, Image, display
data = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=='
png = base64.b64decode(data)
display(Image(png))
display(HTML('<b>bold</b>'))
display({'text/plain': 'a table', 'text/html': '<table>'}, raw=True)
Image(png)
"""


async def test_pictures_and_pages_become_files(session: KernelSession):
    text = (await session.execute(PICTURE)).to_text()
    assert "[saved as output-1.png]" in text
    assert "[saved as output-1.html]" in text
    assert text.endswith("[saved as output-2.png]")
    assert "a table" in text
    assert set(session.workspace.list()) == {"output-1.png", "output-2.png", "output-1.html"}
    assert session.workspace.read("output-1.html") == b"<b>bold</b>"
    assert session.workspace.read("output-1.png").startswith(b"\x89PNG")


async def test_code_may_be_long(session: KernelSession):
    result = await session.execute(f"x = '{'a' * 5_000_000}'\nlen(x)")
    assert (result.result, result.truncated) == ("5000000", False)


LATE = """
import time
k = get_ipython().kernel
send = k.session.send
def late(stream, kind, *args, **more):
    if kind == 'execute_reply':
        k.iopub_thread.io_loop.add_callback(time.sleep, 4)
        k.session.send = send
    return send(stream, kind, *args, **more)
k.session.send = late
print('said')
"""
"""The thread that publishes stands still once the reply is on its way, as on a crowded machine."""


async def test_a_kernel_that_closes_late_has_lost_nothing(session: KernelSession):
    result = await session.execute(LATE)
    assert (result.status, result.to_text()) == ("ok", "said")
    assert result.duration > 3
