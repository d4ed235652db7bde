"""Everything a process can give up before it runs code of strangers, in the order that works."""

from __future__ import annotations

import contextlib
import os
import resource

from . import landlock, libc, seccomp
from .policy import KernelPolicy


def harden(policy: KernelPolicy) -> None:
    """Confine this process and all its future children for good. Raises OSError if a step fails."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    _share_processors(policy)
    _become_user(policy)
    os.umask(0o077)
    _limit_resources(policy)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    abi = landlock.restrict(policy) if policy.landlock != "off" else 0
    if policy.seccomp:
        seccomp.install_for(network=policy.network, own_namespaces=policy.own_pid_namespace, landlock_abi=abi)


def _share_processors(policy: KernelPolicy) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    width = min(policy.cpus, len(allowed))
    first = policy.slot * width
    os.sched_setaffinity(0, {allowed[(first + i) % len(allowed)] for i in range(width)})
    if policy.nice:
        os.nice(policy.nice)


def _become_user(policy: KernelPolicy) -> None:
    keep = libc.CAP_DAC_READ_SEARCH if policy.read_anywhere and policy.uid is not None else None
    libc.drop_bounding_set(keep)
    if policy.uid is not None:
        if keep is not None:
            libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(policy.uid, policy.uid, policy.uid)
        os.setresuid(policy.uid, policy.uid, policy.uid)
    libc.drop_capabilities(keep)


def _limit_resources(policy: KernelPolicy) -> None:
    others = 0
    if not policy.own_pid_namespace and policy.uid is None:  # the limit counts whatever the user runs
        others = _tasks_of(os.getuid()) + 7 * policy.processes
    limits = {
        resource.RLIMIT_DATA: policy.data_bytes,
        resource.RLIMIT_AS: policy.address_space_bytes,
        resource.RLIMIT_NPROC: policy.processes + others,
        resource.RLIMIT_FSIZE: policy.file_bytes,
        resource.RLIMIT_NOFILE: policy.open_files,
        resource.RLIMIT_MEMLOCK: 1 << 16,
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        if value:
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(which, (0, 0))


def _tasks_of(uid: int) -> int:
    """Processes and threads of a user."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == uid:
                count += len(os.listdir(f"/proc/{pid}/task"))
    return count
