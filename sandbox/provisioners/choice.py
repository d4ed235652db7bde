"""Which way to isolate kernels: candidates from strongest to weakest, and what each one gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sandbox.cgroup import Groups
from sandbox.errors import SandboxUnavailableError
from sandbox.isolation import IsolationLevel
from sandbox.kernel.landlock import SIGNAL_SCOPE_ABI, available_abi
from sandbox.provisioners.bubblewrap import Features, probe
from sandbox.provisioners.forkserver import ForkServer
from sandbox.provisioners.levels import Landlock, Namespaces, Plain

WAYS: Mapping[IsolationLevel, type[Plain]] = MappingProxyType({way.level: way for way in (Namespaces, Landlock, Plain)})
"""Strongest first."""


GAPS: Mapping[str, str] = MappingProxyType({"fork-bombs": "a fork bomb may outlive its kernel for a while"})
"""What a level may fail to protect on some machines, by the name with which a user accepts it."""


def gaps(level: IsolationLevel, own_user: bool) -> list[str]:
    """Names of what `level` does not protect here. `own_user`: each kernel has a user of its own."""
    if level is IsolationLevel.PROCESS and not own_user and available_abi() < SIGNAL_SCOPE_ABI:
        return ["fork-bombs"]
    return []


def unaccepted(level: IsolationLevel, own_user: bool, accept: Sequence[str]) -> str:
    """Why `level` is not taken without the user's word, in one line; empty where nothing stands against it."""
    missing = [name for name in gaps(level, own_user) if name not in accept]
    if not missing:
        return ""
    told = ", ".join(f"{GAPS[name]} (Landlock ABI {available_abi()})" for name in missing)
    return f"{told}; to accept that: sandbox.accept=[{','.join(missing)}]"


@dataclass(frozen=True)
class Choice:
    """A level that is ready to launch kernels."""

    way: Plain
    forkserver: ForkServer
    features: Features | None = None
    groups: Groups | None = None

    @property
    def level(self) -> IsolationLevel:
        """What it gives."""
        return self.way.level

    def statement(self, reasons: Sequence[str]) -> str:
        """The one loud line; `reasons`: why stronger ways were not taken."""
        tried = f"; not used: {'; '.join(reasons)}" if reasons else ""
        groups = "" if self.groups is None else f", {self.groups.describe()}"
        return f"sandbox isolation level = {self.level}: {describe(self.level, self.features)}{groups}{tried}"

    async def close(self) -> None:
        """End what `prepare` started."""
        await self.forkserver.close()


def describe(level: IsolationLevel, features: Features | None = None) -> str:
    """What a level gives on this machine, in half a line."""
    if level is IsolationLevel.NONE:
        return "resource limits only: agent code can read what everybody can read here, and use the network"
    landlock = f"landlock ABI {available_abi()}" if available_abi() else "no landlock"
    if level is IsolationLevel.PROCESS:
        return f"{landlock}, seccomp, no network, resource limits; NO pid, net and mount namespaces of their own"
    proc = "" if features is None or features.proc else ", no /proc"
    return f"own pid, net, ipc, uts and mount namespaces, no network, seccomp, {landlock}, resource limits{proc}"


async def prepare(level: IsolationLevel, folder: str, preload: Sequence[str], groups: Groups | None = None) -> Choice:
    """Start what `level` needs before its first kernel. Raises KernelStartError or OSError with the cause."""
    features = await probe() if level is IsolationLevel.NAMESPACE else None
    forkserver = ForkServer(folder, preload, features, WAYS[level].variables)
    await forkserver.start()
    return Choice(WAYS[level](), forkserver, features, groups)


def candidates(level: str, require: IsolationLevel, allow_unsafe: bool) -> list[IsolationLevel]:
    """What may be tried, in order. Raises ValueError for an unknown name."""
    if level != "auto" and level not in WAYS:
        raise ValueError(f"unknown sandbox level {level!r}: auto or one of {', '.join(WAYS)}")
    unsafe = allow_unsafe and require is not IsolationLevel.NAMESPACE
    accepted: Callable[[IsolationLevel], bool] = lambda level: (  # noqa: E731
        unsafe if level is IsolationLevel.NONE else level.covers(require)
    )
    return [name for name in WAYS if level in ("auto", name) and accepted(name)]


def refusal(level: str, require: IsolationLevel, reasons: Sequence[str]) -> SandboxUnavailableError:
    """The one clear line, with a way out."""
    if not reasons:
        reasons = [f"sandbox.level={level} does not give it, or needs sandbox.allow_unsafe=true"]
    return SandboxUnavailableError(
        f"no sandbox of level {require!s} or better works here ({'; '.join(reasons)}); "
        "install bubblewrap, see sandbox/README.md, or run `python -m sandbox doctor`"
    )
