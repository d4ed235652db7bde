"""Which way to isolate kernels: candidates from strongest to weakest, and what each one gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sandbox.errors import SandboxUnavailableError
from sandbox.isolation import IsolationLevel
from sandbox.limits import ResourceLimits
from sandbox.provisioners.base import SandboxProvisioner
from sandbox.provisioners.process import LandlockProvisioner, PlainProvisioner


@dataclass(frozen=True)
class Choice:
    """A provisioner that is ready to launch kernels."""

    name: str
    provisioner: type[SandboxProvisioner]
    features: Any = None
    forkserver: Any = None

    @property
    def level(self) -> IsolationLevel:
        """What it gives."""
        return self.provisioner.level

    def statement(self, reasons: Sequence[str]) -> str:
        """The one loud line; `reasons`: why stronger ways were not taken."""
        what = "resource limits only: agent code can read and change what this user can, and use the network"
        tried = f"; not used: {'; '.join(reasons)}" if reasons else ""
        return f"sandbox isolation level = {self.level} ({self.name}): {what}{tried}"

    async def close(self) -> None:
        """End what `prepare` started."""


@dataclass(frozen=True)
class Candidate:
    """One way to isolate, not tried yet."""

    name: str
    provisioner: type[SandboxProvisioner]

    async def prepare(self, folder: str, preload: Sequence[str], limits: ResourceLimits) -> Choice:
        """Start what is needed before the first kernel. Raises KernelStartError or OSError."""
        return Choice(self.name, self.provisioner)


PROVISIONERS: Mapping[str, type[SandboxProvisioner]] = MappingProxyType({"landlock": LandlockProvisioner, "none": PlainProvisioner})
"""By name, strongest and fastest first."""


def candidates(name: str, require: IsolationLevel, allow_unsafe: bool) -> list[Candidate]:
    """What may be tried, in order. Raises ValueError for an unknown name."""
    if name != "auto" and name not in PROVISIONERS:
        raise ValueError(f"unknown sandbox provisioner {name!r}: auto or one of {', '.join(PROVISIONERS)}")
    unsafe = True
    wanted = [(n, p) for n, p in PROVISIONERS.items() if name in ("auto", n)]
    return [Candidate(n, p) for n, p in wanted if p.level.covers(require) or unsafe]


def refusal(require: IsolationLevel, reasons: Sequence[str]) -> SandboxUnavailableError:
    """The one clear line."""
    return SandboxUnavailableError(f"no sandbox of level {require} or better works here: {'; '.join(reasons)}")
