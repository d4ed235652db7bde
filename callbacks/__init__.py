"""Lightning callbacks of MAPPA."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lightning import Trainer

C = TypeVar("C")


def find(trainer: Trainer, kind: type[C]) -> C | None:
    """The run's callback of a kind, None where it has none."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)
