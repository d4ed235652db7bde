"""Exhausting and hanging, for the self-check and the tests: code that loops, forks, fills, floods, dies and stays.

Each attack is bounded by the limits of the session that runs it: `LIMITS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.limits import ResourceLimits

LIMITS = ResourceLimits(
    interrupt_seconds=1.0,
    process_memory_mib=700,
    total_memory_mib=900,
    processes=96,
    file_mib=48,
    workspace_mib=64,
    workspace_files=3000,
    tmp_mib=32,
)

STOPPED = {"timeout", "killed_timeout"}
KILLED = {"killed_memory", "died"}


@dataclass(frozen=True)
class Attack:
    name: str
    code: str
    expected: set[str]
    seconds: float = 30.0
    says: str = ""


LOOPS = (
    Attack("python", "while True: pass", {"timeout"}, 0.5),
    Attack("sleep", "import time; time.sleep(1000)", {"timeout"}, 0.5),
    Attack(
        "swallowing-interrupts",
        "while True:\n try:\n  for i in range(10**12): x = i\n except BaseException: continue",
        STOPPED,
        0.5,
    ),
    Attack("regular-expression", "import re; re.match('(a+)+$', 'a' * 40 + 'b')", STOPPED, 0.5),
    Attack(
        "c-call", "import collections, itertools; collections.deque(itertools.repeat(0), 0)", {"killed_timeout"}, 0.5
    ),
    Attack("c-arithmetic", "7 ** (10 ** 8)", STOPPED, 0.5),
    Attack(
        "ignoring-sigint", "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass", {"killed_timeout"}, 0.5
    ),
    Attack("stopping-itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {"killed_timeout"}, 0.5),
    Attack("waiting-for-a-child", "import subprocess; subprocess.run(['sleep', '1000'])", STOPPED, 0.5),
    Attack("input", "input()", {"error"}, says="StdinNotImplementedError"),
    Attack("endless-async", "import asyncio\nawait asyncio.sleep(1000)", STOPPED, 0.5),
)
BOMBS = (
    Attack(
        "forks",
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        STOPPED | KILLED,
        2.0,
    ),
    Attack(
        "threads",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        {"error"} | STOPPED | KILLED,
        5.0,
    ),
    Attack("memory", "x = []\nwhile True: x.append(bytearray(10**7))", {"error", "killed_memory"}, says="Memory"),
    Attack(
        "memory-of-many",
        "import os, time\nfor _ in range(8):\n if os.fork() == 0:\n  x = bytearray(b'x' * (250 << 20))\n"
        "  time.sleep(60)\ntime.sleep(60)",
        KILLED,
    ),
    Attack(
        "shared-mappings",
        "import mmap, time\nm = mmap.mmap(-1, 2000 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\ntime.sleep(60)",
        KILLED | {"error"},
    ),
    Attack(
        "shared-memory-files",
        "import os, time\n"
        "for i in range(200):\n with open(f'/dev/shm/{i}', 'wb') as f: f.write(bytes(40 << 20))\n"
        "time.sleep(60)",
        {"error", "killed_disk", "killed_memory"},
    ),
    Attack(
        "recursion",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
        {"error"} | STOPPED | KILLED,
        2.0,
    ),
    Attack(
        "recursion-in-c",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(_): return sorted([0], key=f)\nf(0)",
        {"error"} | STOPPED | KILLED,
        5.0,
    ),
    Attack("exponential-string", "'x' * 10**11", {"error"}, says="MemoryError"),
)
DISK = (
    Attack("one-file", "open('big', 'wb').write(bytes(60 << 20))", {"error"}, says="File too large"),
    Attack(
        "many-bytes",
        "import time\nfor i in range(40): open(f'f{i}', 'wb').write(bytes(10 << 20))\ntime.sleep(60)",
        {"killed_disk", "error"},
    ),
    Attack(
        "deleted-but-open",
        "import os, time\nkeep = []\nfor i in range(40):\n f = open('f', 'wb'); f.write(bytes(10 << 20))\n"
        " os.unlink('f'); keep.append(f)\ntime.sleep(60)",
        {"killed_disk", "error"},
    ),
    Attack(
        "a-million-files",
        "import itertools\nfor i in itertools.count(): open(f'f{i}', 'w').close()",
        {"killed_disk", "error"},
    ),
    Attack(
        "temporary-folder",
        "import time\nfor i in range(99): open(f'/tmp/f{i}', 'wb').write(bytes(10 << 20))",
        {"error"},
    ),
)
OUTPUT = (
    Attack("in-a-loop", "for i in range(1000): print('x' * 10**6)", {"ok"}, 60.0, "characters omitted"),
    Attack("at-once", "print('x' * (300 << 20))", {"ok", "error"}, 60.0, "omitted"),
    Attack(
        "from-a-subprocess",
        "import subprocess; subprocess.run('yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx | head -c 1000000000', shell=True)",
        {"ok"},
        120.0,
        "characters omitted",
    ),
    Attack("to-a-descriptor", "import os\nfor i in range(200): os.write(2, b'y' * 10**6)", {"ok"}, 60.0, "omitted"),
    Attack("in-a-repr", "class R:\n def __repr__(self): return 'r' * (100 << 20)\nR()", {"ok"}, 60.0, "omitted"),
    Attack("in-an-exception", "raise ValueError('e' * (50 << 20))", {"error"}, 60.0, "omitted"),
    Attack("many-small-ones", "for i in range(300_000): print(i)", {"ok"}, 60.0, "299999"),
    Attack(
        "many-displays",
        "for i in range(20_000): display({'text/plain': 'd' * 10_000}, raw=True)",
        {"ok", "killed_output"} | STOPPED,
    ),
)
KERNEL = "k = get_ipython().kernel\n"
FLOODS = (
    Attack(
        "signed-messages",
        KERNEL + "while True: k.session.send(k.iopub_socket, 'stream', {'name': 'stdout', 'text': 'f' * 10**6})",
        {"killed_output"} | STOPPED | KILLED,
        5.0,
    ),
    Attack(
        "frames",
        KERNEL + "import time\nfor i in range(64): k.iopub_thread.send_multipart([b'x' * 3_000_000]); time.sleep(0.01)",
        {"killed_output"},
    ),
    Attack(
        "too-large-a-message",
        KERNEL + "import time; k.iopub_thread.send_multipart([b'x' * (10 << 20)]); time.sleep(0.5)",
        {"ok"},
        says="dropped",
    ),
    Attack(
        "forged-end",
        KERNEL + "p = k.get_parent()\n"
        "k.session.send(k.iopub_socket, 'status', {'execution_state': 'idle'}, parent=p)\n"
        "import time; time.sleep(0.5); print('after')",
        {"ok"},
    ),
    Attack(
        "malformed",
        KERNEL + "p = k.get_parent()\n"
        "for c in ([], {'text': [1]}, {'data': 3}, {'traceback': 7}):\n"
        " for t in ('stream', 'error', 'execute_result', 'status', 'display_data'):\n"
        "  k.session.send(k.iopub_socket, t, c, parent=p)",
        {"ok", "error"},
    ),
    Attack("foreign-key", KERNEL + "k.session.key = b'other'", STOPPED, 1.0),
)
DEATHS = (
    Attack("exit-now", "import os; os._exit(0)", {"died"}),
    Attack("segfault", "import ctypes; ctypes.string_at(0)", {"died"}),
    Attack("abort", "import os; os.abort()", {"died"}),
    Attack("sigkill", "import os; os.kill(os.getpid(), 9)", {"died"}),
    Attack("exit", "exit()", {"ok", "died"}),
    Attack("system-exit", "raise SystemExit(3)", {"error"}),
    Attack("shutdown", KERNEL + "await k.do_shutdown(False)", {"ok", "died", "error"} | STOPPED, 5.0),
    Attack("stopped-loop", KERNEL + "k.io_loop.stop()", {"ok", "died"} | STOPPED, 5.0),
    Attack("closed-descriptors", "import os; os.closerange(3, 500)", {"died", "error"} | STOPPED, 2.0),
    Attack("closed-sockets", KERNEL + "k.iopub_socket.close(); k.shell_stream.close()", {"ok", "died"} | STOPPED, 2.0),
    Attack("no-streams", "import sys; sys.stdout = sys.stderr = None", {"ok", "error"}),
    Attack("no-modules", "import sys; sys.modules.clear()", {"ok", "error", "died"} | STOPPED, 2.0),
    Attack("everyone", "import os, signal; os.kill(-1, signal.SIGKILL)", {"ok", "error", "died"}),
    Attack("parent", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)", {"ok", "error"}),
    Attack("group", "import os, signal; os.killpg(0, signal.SIGKILL)", {"died"}),
)
FILES = (
    Attack("own-folder", "import os, shutil; shutil.rmtree(os.getcwd())", {"ok", "error"}),
    Attack("own-folder-locked", "import os; os.chmod('.', 0); os._exit(0)", {"died"}),
    Attack(
        "deep-folders", "import os\nfor i in range(2000): os.mkdir('d'); os.chdir('d')", {"ok", "error", "killed_disk"}
    ),
)
