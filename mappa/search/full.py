"""Every action of a fixed sequence is tried several times: a full n-ary tree (MALT, arXiv 2412.01928)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mappa.types import Episode, Task

if TYPE_CHECKING:
    from pydantic import PositiveInt


class Full:
    """Attempt a is a leaf of the tree: its number in base `width` says which child is taken at each depth."""

    def __init__(self, width: PositiveInt = 3, depth: PositiveInt = 3) -> None:
        """
        Args:
            width: tries of each action.
            depth: actions of an episode; attempts at a task = width ** depth.
        """
        self.attempts = width**depth
        self._width, self._depth = width, depth

    def branch(self, task: Task, made: Sequence[Episode], seed: int) -> tuple[Episode, int] | None:
        """The attempt before it with the same digits but the last that counts, up to that action."""
        number, zeros = len(made), 0
        while number and number % self._width ** (zeros + 1) == 0:
            zeros += 1
        shared = self._depth - 1 - zeros
        if number == 0 or shared <= 0:
            return None
        parent = made[number - self._width**zeros]
        return parent, min(shared, max(0, len(parent.actions) - 1))
