# ruff: noqa: E501
"""What is claimed, level by level, and the attempts that show it: the README's table is made of this alone.

A cell in bold claims nothing. Every other is shown by all attempts of its row, in `python -m sandbox self-check`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.isolation import IsolationLevel
from sandbox.proof.attacks import FAMILIES, Attack
from sandbox.proof.checks import CHECKS, EXISTENCE, NETWORK, PROCESSES, SYSCALLS, Check

LEVELS = tuple(reversed(IsolationLevel))
_SAME = "same"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    namespace: str
    process: str = _SAME
    none: str = _SAME
    shown_by: tuple[Attack | Check, ...] = ()

    def claims(self, level: IsolationLevel) -> bool:
        """Whether this level is said to hold."""
        return bool(self.shown_by) and not self.cell(level).startswith("**")

    def cell(self, level: IsolationLevel) -> str:
        """As in the README."""
        return {"namespace": self.namespace, "process": self.process, "none": self.none}[level]


_ATTEMPTS: dict[str, Attack | Check] = {
    **{check.name: check for check in CHECKS},
    **{f"{family}-{attack.name}": attack for family, attacks in FAMILIES.items() for attack in attacks},
}


def _all(*names: str) -> tuple[Attack | Check, ...]:
    """By name; a name that ends in `-*` stands for a family."""
    found: list[Attack | Check] = []
    for name in names:
        found += FAMILIES[name[:-2]] if name.endswith("-*") else [_ATTEMPTS[name]]
    return tuple(found)


def _but(checks: tuple[Check, ...], *names: str) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.name not in names)


_METADATA = ("mode-of-others", "times-of-others", "attributes-of-others", "truncation", "truncation-by-opening")
_SHARED = ("shared-memory-file", "shared-memory-segment", "watching-a-folder", "renice-a-user")
_OWN = ("secret-environment", "setuid-program", "become-root", "capabilities", "gain-privileges")

TABLE = (
    Row("endless loops, deaf to interrupts, inside C", "interrupt, then kill", shown_by=_all("loop-*")),
    Row("memory: of one process, of many, shared, of sockets, of processes without a leader", "MemoryError / killed",
        none="**shared memory of no file is not seen**", shown_by=_all(
            "bomb-memory", "bomb-memory-of-many", "bomb-let-go-but-kept", "bomb-memory-of-sockets",
            "bomb-memory-of-a-process-without-leader", "bomb-recursion-in-c")),
    Row("forks, threads", "limit, killed as a whole", "same; an ordinary user below Landlock ABI 6: **refused**",
        shown_by=_all("bomb-forks", "bomb-threads")),
    Row("disk: size, number, depth, deleted, mapped and locked files", "file systems of their own, sized",
        "counted, killed", "**descriptors on their way are not seen**", _all("disk-*", "files-full-then-dead")),
    Row("/tmp and /dev/shm", "private, sized", "own folder, counted; /dev/shm private, sized, where root may mount, else none", "**/dev/shm is everybody's**",
        _all("bomb-shared-memory-files", "shared-memory-file")),
    Row("output and message floods, forged messages", "bounded, killed", shown_by=_all("output-*", "flood-*")),
    Row("the trainer: hung, flooded, crashed, its memory, a neighbour's answers", "nothing is noticed",
        none="**sessions of its own take the processor**", shown_by=_all("trainer-*")),
    Row("exit, segfault, SIGKILL of the kernel", "restarted", shown_by=_all("death-*")),
    Row("own files that break the next kernel", "restarted", shown_by=_all(
        "files-own-folder", "files-own-folder-locked", "files-names-of-modules")),
    Row("secrets in the trainer's environment", "clean environment", none="clean, but **/proc of the same user is open**",
        shown_by=_all(*_OWN)),
    Row("home, hidden answers, other files: reading", "not mounted", "denied by Landlock", "**whatever everybody may read**",
        _all("secret-file", "secret-folder-listing", "secret-through-symlink", "secret-through-hardlink",
             "secret-through-subprocess", "secret-through-proc-root", "home-of-trainer", "kernel-memory-and-log")),
    Row("writing and deleting outside the workspace", "not mounted", "denied by Landlock", "**as far as permissions go**",
        _all("write-outside", "delete-outside", "rename-outside", "tamper-with-python", "tamper-with-ipykernel", "sysctl",
             "device-node")),
    Row("modes, times and attributes of others' files, truncation", "not mounted", "seccomp: chmod and utime do nothing",
        "**as far as permissions go**", _all(*_METADATA)),
    Row("SysV and POSIX shared memory, inotify, renice of a user", "own namespaces", "seccomp", "**open**", _all(*_SHARED)),
    Row("/proc of other processes, signals to them", "no such processes", "denied", "**open**",
        _but(PROCESSES, *_OWN, "renice-a-user") + _all("secret-environment-of-others", "processes-of-others")),
    Row("its own control group: to thaw, to leave", "not mounted", "denied by Landlock", "**open**", _all("control-group")),
    Row("TCP, UDP, DNS, raw, vsock; unix sockets by path or name", "empty network", "no sockets, no connect", "**open**",
        _but(NETWORK)),
    Row("namespaces, mounts, ptrace, bpf, keyrings, io_uring, perf", "seccomp", "seccomp", "**open**", SYSCALLS),
    Row("other kernels' files and sockets", "not mounted", "Landlock, own user", "**an ordinary user's are open**",
        _all("other-kernels-files", "other-kernels-socket")),
    Row("names, sizes and existence of files (`stat`)", "not mounted", "**visible**, contents are not", "**visible**", (EXISTENCE,)),
    Row("system files under /usr and a few of /etc", "**/usr is readable**", "**readable**", "**readable**"),
    Row("exploits of the Linux kernel itself, side channels", "**open**", "**open**", "**open**"),
    Row("a share of the processor", "**niceness only**, by session where the system has autogroup, by kernel with control groups", "**same**", "**same**"),
)  # fmt: skip


def render() -> str:
    """The table, in Markdown."""
    lines = [f"| attack | {' | '.join(LEVELS)} |", "|---|---|---|---|"]
    for row in TABLE:
        lines.append(f"| {row.title} | {' | '.join(row.cell(level) for level in LEVELS)} |")
    return "\n".join(lines) + "\n"
