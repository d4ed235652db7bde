"""Two objectives in turn: Optima's hybrid (iSFT, iDPO, iSFT, ...), or one epoch of the first and then the second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mappa.objective.base import BaseObjective, Objective

if TYPE_CHECKING:
    from pydantic import PositiveInt


class Alternate(BaseObjective):
    """Each epoch has one of them, with its own rate, passes, search and start."""

    def __init__(
        self, first: Objective, second: Objective, turns: tuple[PositiveInt, PositiveInt | None] = (1, 1)
    ) -> None:
        """
        Args:
            turns: epochs of the first, then of the second, and again; null for the second = all the others.
        """
        self._first, self._second, self._turns = first, second, tuple(turns)

    def at(self, epoch: int) -> Objective:
        first, second = self._turns
        place = epoch if second is None else epoch % (first + second)
        return self._first if place < first else self._second
