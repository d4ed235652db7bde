"""How strongly agent code is kept apart from the machine."""

from __future__ import annotations

from enum import StrEnum


class IsolationLevel(StrEnum):
    """From weakest to strongest; `covers` compares, since strings compare by letters."""

    NONE = "none"
    """Resource limits only: code can read what everybody on the machine can read, and use the network."""
    PROCESS = "process"
    """Landlock, seccomp and resource limits in one process tree; no namespaces of its own."""
    NAMESPACE = "namespace"
    """Own pid, net, ipc, uts and mount namespaces, then the same as `process` inside them."""

    def covers(self, required: IsolationLevel) -> bool:
        """Whether this level is at least `required`."""
        order = list(IsolationLevel)
        return order.index(self) >= order.index(required)
