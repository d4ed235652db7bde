"""Jupyter kernels that untrusted code cannot escape, exhaust or hang.

pool = KernelPool()
async with pool, pool.session() as session:
    result = await session.execute("1 + 1")
    print(result.to_text())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.errors import KernelStartError, SandboxError, SandboxUnavailableError, WorkspaceError
    from sandbox.isolation import IsolationLevel
    from sandbox.limits import ResourceLimits
    from sandbox.pool import KernelPool
    from sandbox.result import ExecutionResult, ExecutionStatus
    from sandbox.session import KernelSession
    from sandbox.workspace import FileInfo, Workspace

_HOMES = {
    "ExecutionResult": "result",
    "ExecutionStatus": "result",
    "FileInfo": "workspace",
    "IsolationLevel": "isolation",
    "KernelPool": "pool",
    "KernelSession": "session",
    "KernelStartError": "errors",
    "ResourceLimits": "limits",
    "SandboxError": "errors",
    "SandboxUnavailableError": "errors",
    "Workspace": "workspace",
    "WorkspaceError": "errors",
}

__all__ = [
    "ExecutionResult",
    "ExecutionStatus",
    "FileInfo",
    "IsolationLevel",
    "KernelPool",
    "KernelSession",
    "KernelStartError",
    "ResourceLimits",
    "SandboxError",
    "SandboxUnavailableError",
    "Workspace",
    "WorkspaceError",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `import sandbox` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
