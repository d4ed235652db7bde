"""The processes that vLLM 0.32 starts: what they inherit, and that none of them is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_GRACE_SECONDS = 5.0
_LAUNCHER = {
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
}
"""Variables by which a launcher tells a rank who it is."""


def family(cores: Iterable[BaseProcess]) -> list[Any]:
    """vLLM's core processes and their workers, as psutil processes."""
    import psutil

    found = [psutil.Process(core.pid) for core in cores]
    return [*found, *(worker for core in found for worker in core.children(recursive=True))]


def end(processes: Sequence[Any]) -> None:
    """Wait for processes to end; workers of a core that crashed are killed."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)


def guard(pids: Sequence[int]) -> subprocess.Popen[bytes]:
    """A shell that kills `pids` when this process is gone and its input ends: vLLM's core outlives a killed run."""
    command = ["/bin/sh", "-c", 'read -r _; kill -9 "$@"', "mappa-guard", *map(str, pids)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@contextmanager
def environment(on_cpu: bool, gpu: int | None = None) -> Iterator[None]:
    """What vLLM's processes inherit; the user's own settings win, and are all that is left afterwards.

    New interpreters instead of forks (a trainer has threads and a CUDA context), warnings only, no usage reports, and
    on a CPU no just-in-time compilation of samplers, which costs half a minute and gains nothing. The words of the
    trainer's own launcher (torchrun's ranks and addresses) are not for them, nor are expandable segments of memory,
    with which vLLM cannot sleep.

    Args:
        gpu: index, among those visible here, of the one GPU that they may see; None = all.
    """
    wanted = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    if on_cpu:
        wanted["TORCH_COMPILE_DISABLE"] = "1"
    before = dict(os.environ)
    os.environ.update({name: value for name, value in wanted.items() if name not in before})
    for name in [name for name in before if name in _LAUNCHER or name.startswith("TORCHELASTIC_")]:
        del os.environ[name]
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if name in before:
            kept = [word for word in before[name].split(",") if not word.strip().startswith("expandable_segments")]
            os.environ.pop(name)
            os.environ.update({name: ",".join(kept)} if kept else {})
    if gpu is not None:
        visible = [device for device in before.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
