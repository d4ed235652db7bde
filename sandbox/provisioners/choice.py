"""Which way to isolate kernels: candidates from strongest to weakest, and what each one gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sandbox.errors import SandboxUnavailableError
from sandbox.isolation import IsolationLevel
from sandbox.kernel.landlock import available_abi
from sandbox.provisioners.base import SandboxProvisioner
from sandbox.provisioners.bubblewrap import BubblewrapProvisioner, Features, probe
from sandbox.provisioners.forkserver import ForkServer
from sandbox.provisioners.process import LandlockProvisioner, PlainProvisioner
from sandbox.provisioners.zygote import ForkingProvisioner, LandlockZygoteProvisioner, ZygoteProvisioner

PROVISIONERS: Mapping[str, type[SandboxProvisioner]] = MappingProxyType(
    {
        "zygote": ZygoteProvisioner,
        "bubblewrap": BubblewrapProvisioner,
        "landlock-zygote": LandlockZygoteProvisioner,
        "landlock": LandlockProvisioner,
        "none": PlainProvisioner,
    }
)
"""By name; strongest first, of equals the fastest."""


@dataclass(frozen=True)
class Choice:
    """A provisioner that is ready to launch kernels."""

    name: str
    provisioner: type[SandboxProvisioner]
    features: Features | None = None
    forkserver: ForkServer | None = None

    @property
    def level(self) -> IsolationLevel:
        """What it gives."""
        return self.provisioner.level

    def statement(self, reasons: Sequence[str]) -> str:
        """The one loud line; `reasons`: why stronger ways were not taken."""
        tried = f"; not used: {'; '.join(reasons)}" if reasons else ""
        return f"sandbox isolation level = {self.level} ({self.name}): {describe(self.level, self.features)}{tried}"

    async def close(self) -> None:
        """End what `prepare` started."""
        if self.forkserver is not None:
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


async def prepare(name: str, folder: str, preload: Sequence[str]) -> Choice:
    """Start what `name` needs before its first kernel. Raises KernelStartError or OSError with the cause."""
    provisioner = PROVISIONERS[name]
    features = await probe() if provisioner.level is IsolationLevel.NAMESPACE else None
    forkserver = None
    if issubclass(provisioner, ForkingProvisioner):
        forkserver = ForkServer(folder, preload, features)
        await forkserver.start()
    return Choice(name, provisioner, features, forkserver)


def candidates(name: str, require: IsolationLevel, allow_unsafe: bool) -> list[str]:
    """What may be tried, in order. Raises ValueError for an unknown name."""
    if name != "auto" and name not in PROVISIONERS:
        raise ValueError(f"unknown sandbox provisioner {name!r}: auto or one of {', '.join(PROVISIONERS)}")
    unsafe = allow_unsafe and require is not IsolationLevel.NAMESPACE
    accepted: Callable[[IsolationLevel], bool] = lambda level: (  # noqa: E731
        unsafe if level is IsolationLevel.NONE else level.covers(require)
    )
    return [n for n, p in PROVISIONERS.items() if name in ("auto", n) and accepted(p.level)]


def refusal(name: str, require: IsolationLevel, reasons: Sequence[str]) -> SandboxUnavailableError:
    """The one clear line, with a way out."""
    if not reasons:
        reasons = [f"provisioner {name!r} does not give it, or needs sandbox.allow_unsafe=true"]
    return SandboxUnavailableError(
        f"no sandbox of level {require!s} or better works here ({'; '.join(reasons)}); "
        "install bubblewrap, see sandbox/README.md, or run `python -m sandbox doctor`"
    )
