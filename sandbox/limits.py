"""Resource limits of one sandboxed kernel."""

from __future__ import annotations

from dataclasses import dataclass, fields

MIB = 1 << 20


@dataclass(frozen=True)
class ResourceLimits:
    """What one kernel and everything it starts may use. Plain numbers, so that configuration can set each.

    The defaults fit 64 kernels on a 24 GiB machine: most kernels stay under 150 MiB, few ever reach a limit.
    """

    execution_seconds: float = 60.0
    """Wall clock of one `execute`; then the code is interrupted."""
    interrupt_seconds: float = 3.0
    """How long interrupted code may take to stop; then the kernel is killed."""
    start_seconds: float = 60.0
    """How long a kernel may take to answer for the first time."""
    process_memory_mib: int = 2048
    """Private memory of each process (RLIMIT_DATA): beyond it the code gets a MemoryError it can catch."""
    address_space_mib: int = 6144
    """Address space of each process (RLIMIT_AS), which bounds shared mappings too; 0 = unlimited."""
    total_memory_mib: int = 3072
    """All processes of the kernel together, shared pages counted once; beyond it the kernel is killed."""
    processes: int = 128
    """Processes and threads together; an idle kernel has about 12."""
    file_mib: int = 512
    """Size of any one file (RLIMIT_FSIZE)."""
    open_files: int = 512
    """File descriptors of each process."""
    workspace_mib: int = 1024
    """Size of the workspace. At level `namespace` it lies in memory and is full then; else the kernel is killed."""
    workspace_files: int = 20_000
    """Files and folders in the workspace, as `workspace_mib`; as many again in /tmp and in /dev/shm."""
    tmp_mib: int = 256
    """Private /tmp, and as much again for /dev/shm (both in memory, level `namespace`)."""
    cpus: int = 2
    """Width of the CPU affinity: what `n_jobs=-1` sees."""
    nice: int = 10
    """Added to the trainer's own niceness."""
    output_chars: int = 200_000
    """Characters of each output stream kept per execution, half of them from the end."""
    message_mib: int = 2
    """Largest message taken from a kernel; eight times as much in one execution kills the kernel."""

    def __post_init__(self) -> None:
        """Refuse values that would silently switch a limit off."""
        for f in fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("address_space_mib", "nice") else 1
            if f.name.endswith("_seconds"):
                least = 0.01
            if not value >= least:
                raise ValueError(f"sandbox limit {f.name}={value} must be at least {least}")
