"""The orders one kernel gets from outside, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class KernelPolicy:
    """Paths are those the kernel sees. Everything that is not allowed here is denied."""

    connection_file: str
    """Written by the host: sockets and key of the kernel's channels."""
    working_dir: str
    log_file: str
    """Where the kernel's own complaints go (bounded by `file_bytes`)."""

    # resource limits, see ResourceLimits
    data_bytes: int
    address_space_bytes: int
    processes: int
    file_bytes: int
    open_files: int
    tmp_bytes: int
    nice: int
    cpus: int
    output_chars: int

    slot: int = 0
    """Number of the kernel, for spreading kernels over the processors."""
    uid: int | None = None
    """User and group to become (only when started as root)."""
    read_anywhere: bool = False
    """Keep the right to read files of other users: needed where the interpreter lies in root's home."""
    supervise: bool = False
    """No pid namespace: keep a parent that takes every descendant down with the kernel."""
    own_pid_namespace: bool = True

    landlock: str = "off"
    """"off", "try" (namespaces protect already) or "require"."""
    landlock_abi: int = 0
    """Pretend an older kernel (tests); 0 = what there is."""
    read_only: list[str] = field(default_factory=list)
    writable: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    """Single files that may be read and written."""
    list_root: bool = False
    own_proc: bool = False
    """Allow /proc/<own pid> (without a pid namespace: no other)."""

    seccomp: bool = True
    network: bool = False
    """Whether network sockets may be made (harmless in a network namespace of its own)."""

    home: str = "/tmp"
    environment: dict[str, str] = field(default_factory=dict)
    """Replaces the environment; nothing is inherited."""
    mounts: dict[str, str] = field(default_factory=dict)
    """With namespaces: place in the fork server's view -> place in the kernel's, bound before the confinement."""
    visible_roots: list[str] = field(default_factory=list)
    """With namespaces: folders below /tmp that must outlive the private /tmp."""
    tmp_files: int = 20_000
    """With namespaces: files in /tmp, and as many in /dev/shm."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KernelPolicy:
        """Inverse of `to_json`; unknown or missing keys raise TypeError."""
        return cls(**json.loads(text))
