"""What an epoch has left to learn from: its episodes and verdicts, whom to ask about them, and how it is given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from mappa.types import Action, Episode, Sample, Verdict

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torch import Tensor

    from mappa.task.base import TaskSet


class Policies(Protocol):
    """Log-probabilities (natural log, float32, on the host) of what was sampled. Every call is collective."""

    def old(self, samples: Sequence[Sample]) -> list[Tensor | None]:
        """As `now`, but without a second forward pass where none is needed; None each where one update is taken."""

    def now(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Under each sample's own adapter before the epoch's first update."""

    def base(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Under the frozen base, adapters off."""

    def check_engine(self, samples: Sequence[Sample]) -> None:
        """Engine and trainer must agree on what was sampled.

        Raises:
            EngineError: they do not.
        """


def save_and_stop(trainer: Trainer, module: LightningModule) -> None:
    """Before an error that ends a run: a checkpoint from before this epoch, so that nothing is lost. Collective."""
    trainer.should_stop = True
    for callback in trainer.checkpoint_callbacks:
        if hasattr(callback, "save"):
            callback.save(trainer, module)


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
    opened: tuple[int, ...]
    """The chat template's opened assistant turn alone."""
    gather: Callable[[Any], list[Any]]
    """A rank's object -> those of all ranks. Collective."""

    def samples(self) -> list[Sample]:
        """All actions with the rewards that the judge gave them; what a branch replays is its parent's alone."""
        return [
            Sample(action, episode.task.id, episode.task.kind, self._reward(action.id))
            for episode in self.episodes
            for action in episode.own
        ]

    def bare_losses(self, actions: Sequence[Action]) -> dict[str, float]:
        """Action id -> mean loss, in nats a token, of its message alone under the frozen base. Collective."""
        alone = [Sample(replace(action, prompt_ids=self.opened, plain_ids=None), "", "", None) for action in actions]
        found = self.policies.base(alone)
        return {action.id: -values.mean().item() for action, values in zip(actions, found, strict=True)}

    def _reward(self, action_id: str) -> float | None:
        verdict = self.verdicts.get(action_id)
        return None if verdict is None or verdict.score is None else verdict.score / 10.0
