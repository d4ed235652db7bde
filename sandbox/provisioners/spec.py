"""What a session asks for, and the parts of a kernel's orders that are the same at every level."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sandbox.errors import KernelStartError
from sandbox.kernel.policy import KernelPolicy
from sandbox.limits import MIB, ResourceLimits

KERNEL_PACKAGE = str(Path(__file__).parent.parent / "kernel")


@dataclass(frozen=True)
class LaunchSpec:
    """One kernel of one session."""

    limits: ResourceLimits
    folder: str
    """Host path of the session's own, short-named folder."""
    generation: int = 1
    """Which kernel of the session."""
    slot: int = 0
    """Number of the session."""
    uid: int | None = None
    """User to run as; None = the caller."""

    @property
    def run(self) -> str:
        """Name of the folder for this kernel's sockets and orders."""
        return f"run{self.generation}"


_PYTHON_NEEDS = ("bin", "lib", "lib32", "lib64", "pyvenv.cfg")


def python_roots() -> list[str]:
    """Folders and files outside /usr the interpreter needs, of its virtual environment and of the base installation.

    What else lies beside them (a project with its environment in it) is none of the code's business. Raises
    KernelStartError where the working folder or the home is within.
    """
    return list(_python_roots(os.getcwd(), os.path.expanduser("~")))


@cache
def _python_roots(*private: str) -> tuple[str, ...]:
    base = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
    roots = dict.fromkeys([sys.prefix, os.path.realpath(sys.base_prefix), base])
    needed = [f"{root}/{name}" for root in roots if root not in ("/", "/usr") for name in _PYTHON_NEEDS]
    for path in needed:
        for folder in private:
            if os.path.realpath(f"{folder}/x").startswith(os.path.realpath(path) + "/"):
                raise KernelStartError(f"{folder} lies in {path}, which code needs to read; work in another folder")
    return tuple(path for path in needed if os.path.exists(path) and not os.path.islink(path))


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
