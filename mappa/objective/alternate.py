"""Two objectives in turn: Optima's hybrid (iSFT, iDPO, iSFT, ...), or one epoch of the first and then the second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first.state_dict(), "second": self._second.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._first.load_state_dict(state_dict["first"])
        self._second.load_state_dict(state_dict["second"])
