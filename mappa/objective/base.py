"""What every training objective offers: an epoch -> weighted rows, and the loss of a micro-batch of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from mappa.types import Batch, Episode, Sample, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from mappa.learn.batch import Row
    from mappa.task.base import TaskSet


class Start(StrEnum):
    """What an epoch's updates start from."""

    ON = "on"
    """The adapters as they are; optimizer and learning-rate schedule run through all epochs."""
    FRESH = "fresh"
    """The adapters as they are; optimizer and schedule begin anew each epoch."""
    BASE = "base"
    """The adapters as they were created, so the base model; optimizer and schedule begin anew each epoch."""


class Policies(Protocol):
    """Log-probabilities (natural log, float32, on the host) of what was sampled. Every call is collective."""

    def now(self, samples: Sequence[Sample]) -> list[Tensor | None]:
        """Under each sample's own adapter before the epoch's first update; None each where one update is taken."""

    def base(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Under the frozen base, adapters off: the reference policy."""

    def check_engine(self, samples: Sequence[Sample]) -> None:
        """Engine and trainer must agree on what was sampled.

        Raises:
            EngineError: they do not.
        """


@dataclass(frozen=True)
class Collected:
    """One rank's share of an epoch, the last verdict in."""

    episodes: Sequence[Episode]
    verdicts: Mapping[str, Verdict]
    """Action id -> verdict; empty where there is no judge."""
    version: int
    """Updates taken before this epoch."""
    task_set: TaskSet
    policies: Policies
    gather: Callable[[Any], list[Any]]
    """A rank's object -> those of all ranks. Collective."""

    def samples(self) -> list[Sample]:
        """All actions with the rewards that the judge gave them."""
        return [
            Sample(action, episode.task.id, episode.task.kind, self._reward(action.id))
            for episode in self.episodes
            for action in episode.actions
        ]

    def _reward(self, action_id: str) -> float | None:
        verdict = self.verdicts.get(action_id)
        return None if verdict is None or verdict.score is None else verdict.score / 10.0


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
