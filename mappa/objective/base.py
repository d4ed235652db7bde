"""What every training objective offers: an epoch -> weighted rows, and the loss of a micro-batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from mappa.epoch import Collected
from mappa.search.base import Search
from mappa.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from mappa.learn.rows import Row


class Start(StrEnum):
    """What an epoch's updates start from."""

    ON = "on"
    """The adapters as they are; optimizer and learning-rate schedule run through all epochs."""
    FRESH = "fresh"
    """The adapters as they are; optimizer and schedule begin anew each epoch."""
    BASE = "base"
    """The adapters as they were created, so the base model; optimizer and schedule begin anew each epoch."""


@dataclass(frozen=True)
class Prepared:
    """One rank's part of an epoch, ready to be learned."""

    rows: list[Row]
    metrics: dict[str, float]
    """Of all ranks."""
    per_token: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Name -> action id -> one value a token; logged as `<agent>/<name>`, the mean over all ranks' tokens."""


class Objective(Protocol):
    """`rows` once an epoch, then `loss` of each micro-batch."""

    passes: int
    """Over an epoch's rows."""
    start: Start
    learning_rate: float | None
    """None = the module's."""
    temperature: float | None
    """Of the log-probabilities that are learned; None = that of the rollouts."""
    search: Search | None
    """Where attempts at a task branch off from one another; None = they are independent."""
    attempts: int | None
    """At each task of an epoch; None = `data.samples_per_task`."""

    def at(self, epoch: int) -> Objective:
        """Whose turn it is: its own, as a rule."""

    def rows(self, made: Collected) -> Prepared:
        """What is learned from an epoch, with what weight. Collective."""

    def size(self, rows: Sequence[Row]) -> float:
        """This rank's share of the denominator of an optimizer step's loss."""

    def loss(
        self, logprobs_N: Tensor, entropy_N: Tensor, batch: Batch, size: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, and sums over its loss tokens for the metrics, `loss` and `tokens` among them.

        Args:
            size: of the agent's whole optimizer step, over all micro-batches and ranks.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it remembers from one epoch to the next, the same on all ranks; kept in checkpoints."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `state_dict` gave it."""


class BaseObjective:
    """Defaults: one pass on-policy over independent attempts, at the module's rate and the rollouts' temperature."""

    passes = 1
    start = Start.ON
    learning_rate: float | None = None
    temperature: float | None = None
    search: Search | None = None
    attempts: int | None = None

    def at(self, epoch: int) -> Objective:
        """Itself by default."""
        return self

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
