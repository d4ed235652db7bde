"""Episodes with a fault that we have put there: what a judge is tried on."""

from __future__ import annotations

from dataclasses import dataclass

from mappa.types import Episode


@dataclass(frozen=True)
class Case:
    """One episode twice: as it should be, and with a fault."""

    fault: str
    good: Episode
    faulty: Episode
    guilty: int
    """Which of the faulty episode's actions it is."""
    unharmed: int
    """The same agent's action in the good one."""
