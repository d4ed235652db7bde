"""What a session asks of a provisioner, and the parts of the answer that are the same at every level."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.kernel.policy import KernelPolicy
from sandbox.limits import MIB, ResourceLimits

KERNEL_PACKAGE = str(Path(__file__).parent.parent / "kernel")


@dataclass(frozen=True)
class LaunchSpec:
    """What a session asks of its provisioner."""

    limits: ResourceLimits
    workspace: str
    """Host path of the only folder the code may change."""
    control: str
    """Host path of an own, empty, short-named folder for sockets and orders."""
    slot: int = 0
    uid: int | None = None
    """User to run as; None = the caller."""
    features: Any = None
    """What the machine's bubblewrap can do, for the provisioner that uses it; None = find out."""
    forkserver: Any = None
    """ForkServer, for the provisioners that need one."""


def python_roots() -> list[str]:
    """Folders outside /usr the interpreter needs: the virtual environment and the base installation."""
    base = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
    roots = [sys.prefix, os.path.realpath(sys.base_prefix), base]
    return [root for root in dict.fromkeys(roots) if root not in ("/", "/usr")]


def base_policy(spec: LaunchSpec, run_folder: str, working_dir: str, home: str, **changes: Any) -> KernelPolicy:
    """Limits, places and environment that are the same at every level."""
    limits = spec.limits
    return KernelPolicy(
        connection_file=f"{run_folder}/kernel.json",
        working_dir=working_dir,
        log_file=f"{run_folder}/kernel.log",
        data_bytes=limits.process_memory_mib * MIB,
        address_space_bytes=limits.address_space_mib * MIB,
        file_bytes=limits.file_mib * MIB,
        open_files=limits.open_files,
        tmp_bytes=limits.tmp_mib * MIB,
        nice=limits.nice,
        cpus=limits.cpus,
        output_chars=limits.output_chars,
        message_bytes=limits.message_mib * MIB,
        slot=spec.slot,
        home=home,
        **{"uid": spec.uid, "processes": limits.processes, "environment": environment(limits.cpus, home), **changes},
    )


def environment(cpus: int, home: str) -> dict[str, str]:
    """The whole environment of a kernel: nothing of the trainer's."""
    threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "IPYTHONDIR": f"{home}/.ipython",
        "JUPYTER_PLATFORM_DIRS": "1",
        "MPLCONFIGDIR": f"{home}/.matplotlib",
        "MPLBACKEND": "agg",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MALLOC_ARENA_MAX": "2",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pandas imports pyarrow: no thread before a fork
        "NUMEXPR_MAX_THREADS": str(cpus),
        "LOKY_MAX_CPU_COUNT": str(cpus),
        **threads,
    }
