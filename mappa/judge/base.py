"""What every judge is asked and answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mappa.types import Action, Episode, Task, Verdict


class When(StrEnum):
    """When an action is scored."""

    ACTION = "action"
    """As soon as it is finished, while others still generate."""
    EPISODE = "episode"
    """Once the outcome is known, so that upstream blame is possible."""


@dataclass(frozen=True)
class Evidence:
    """Everything a judge may look at to score one action."""

    task: Task
    actions: tuple[Action, ...]
    """All actions of the episode that are known, in order: up to this one, or all of them once the episode is over."""
    index: int
    """Which of `actions` is to be scored."""
    episode: Episode | None = None
    """The finished episode, only for `When.EPISODE`."""

    @property
    def action(self) -> Action:
        return self.actions[self.index]

    @property
    def before(self) -> tuple[Action, ...]:
        """The actions that came before the one to be scored."""
        return self.actions[: self.index]


class Judge(Protocol):
    """Scores single actions. Failure is data: `score` answers with a `Verdict` without a score, it does not raise."""

    id: str
    """Names judge, model and prompts: changes whenever verdicts could."""
    when: When
    fatal: str | None
    """Why it cannot be used any more; whoever runs it stops the run. None as long as it can."""

    async def start(self) -> None:
        """Check that the judge can be used (one call at most) before the first rollout.

        Raises:
            JudgeError: it never can be: wrong key, unknown model.
        """

    async def announce(self, actions: int) -> None:
        """Told before the first of about `actions` scores: a paid judge says what they may cost."""

    async def score(self, evidence: Evidence) -> Verdict: ...

    async def totals(self) -> dict[str, float]:
        """What this run's calls add up to so far, trials, failures and calls before a resume included; empty where
        nothing is paid. `cost` and `held` (perhaps spent on top) in dollars."""

    async def flush(self) -> None:
        """Force all verdicts so far through to the disk, before something is trained on them."""

    async def close(self) -> None: ...


class BaseJudge:
    """Defaults for judges without connections."""

    when = When.ACTION
    fatal: str | None = None

    async def start(self) -> None:
        """Nothing to check by default."""

    async def announce(self, actions: int) -> None:
        """Nothing to pay by default."""

    async def totals(self) -> dict[str, float]:
        """Nothing is paid by default."""
        return {}

    async def flush(self) -> None:
        """Nothing to write by default."""

    async def close(self) -> None:
        """Nothing to release by default."""
