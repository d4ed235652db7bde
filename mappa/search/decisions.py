"""Every decision of an episode is tried again from where it stood (C3, arXiv 2603.06859)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mappa.types import Episode, Task

if TYPE_CHECKING:
    from pydantic import PositiveInt


class Decisions:
    """The first attempt is the trunk; then `others` more begin at each of its actions, with all before it replayed."""

    def __init__(self, depth: PositiveInt, others: PositiveInt = 1) -> None:
        """
        Args:
            depth: actions of an episode; attempts at a task = 1 + depth * others. The decisions of a shorter trunk get
                more alternatives, those of a longer one none past `depth`.
            others: alternatives to each action of the trunk.
        """
        self.attempts = 1 + depth * others
        self._others = others

    def branch(self, task: Task, made: Sequence[Episode], seed: int) -> tuple[Episode, int] | None:
        if not made:
            return None
        trunk = made[0]
        decision = (len(made) - 1) // self._others % max(1, len(trunk.actions))
        return (trunk, decision) if decision else None
