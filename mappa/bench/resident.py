"""One forward and backward pass in a process of its own.

    python -m mappa.bench.resident SHAPE DTYPE CHECKPOINTING ROWS LENGTH

It prints peak bytes beyond what was there before, and seconds (of the processor, where there is no GPU), as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mappa.bench.shapes import Setting
from mappa.policy.forward import Policy

AGENTS = ("solver", "executor", "verifier")
CHUNK = 1024
"""Loss positions whose logits exist at one time."""


@contextmanager
def peak_bytes(on_gpu: bool) -> Iterator[list[int]]:
    """A list of one number once the block is done: the most memory that was taken in it."""
    found = [0]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found[0] = torch.cuda.max_memory_allocated() - before
        return
    before, done = _resident(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            found[0] = max(found[0], _resident() - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(shape: str, dtype: str, checkpointing: bool, rows: int, length: int) -> dict[str, float]:
    """Rows of all agents in one pass, every token with a loss; random weights."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    torch.set_num_threads(1)
    setting = Setting(shape, rows * length, dtype, attention="sdpa", repeats=1, device=device)
    adapters = setting.adapters(AGENTS, checkpointing)
    policy = Policy(adapters, 1.0, CHUNK)

    def once(rows: int) -> None:
        ids, mask = torch.randint(5, 300, (rows, length), device=device), torch.ones(rows, length)
        each = [(agent, len(range(i, rows, len(AGENTS)))) for i, agent in enumerate(AGENTS)]
        adapters.select_rows([(agent, count) for agent, count in each if count])
        with adapters.precision():
            logprobs_N, _ = policy(ids, mask)
        logprobs_N.sum().backward()
        adapters.model.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()

    once(1)  # libraries make their own workspaces at the first use
    clock = time.monotonic if on_gpu else time.process_time
    with peak_bytes(on_gpu) as peak:
        began = clock()
        once(rows)
        seconds = clock() - began
    return {"bytes": peak[0], "seconds": seconds}


if __name__ == "__main__":
    _shape, _dtype, _checkpointing, _rows, _length = sys.argv[1:]
    print(json.dumps(measure(_shape, _dtype, _checkpointing == "True", int(_rows), int(_length))))  # noqa: T201 command-line output
