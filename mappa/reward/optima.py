"""Task success, tokens and readability of a dialogue (Optima, arXiv 2410.08115, section 3)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

from mappa.epoch import Collected
from mappa.reward.base import Rating, finished, spent
from mappa.types import BASE, Action, Episode

if TYPE_CHECKING:
    from annotated_types import Gt, Le
    from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt


class Optima:
    """R = task * grade - tokens * T / T_norm + loss / L.

    T: completion tokens of the episode. T_norm: those of the longest attempt at the same task; with `percentile` that
    percentile, plus 1, of all of the epoch's episodes. L: the largest loss per token of a message alone under the
    frozen base, in nats: messages that the base finds likely are readable.

    Guards of the authors' code: a message said twice makes the loss part 0; an empty message, or one longer than
    `longest` tokens, makes it -1; such a long one, or an episode of no more than `least_tokens`, makes the token part
    -1. Both parts are then weighted as usual.
    """

    def __init__(
        self,
        task: NonNegativeFloat = 1.0,
        tokens: NonNegativeFloat = 0.6,
        loss: NonNegativeFloat = 1.0,
        percentile: Annotated[float, Gt(0), Le(100)] | None = None,
        longest: PositiveInt = 2000,
        least_tokens: NonNegativeInt = 40,
    ) -> None:
        """
        Args:
            task, tokens, loss: weights of the three terms; the paper's lambda_token and lambda_loss are the last two.
            percentile: the paper's 85 for pairs of a tree; None = the longest attempt at the task, for iSFT.
            longest: tokens of a message.
            least_tokens: of an episode.
        """
        self._task, self._tokens, self._loss = task, tokens, loss
        self._percentile, self._longest, self._least_tokens = percentile, longest, least_tokens

    def rate(self, made: Collected) -> dict[str, Rating]:
        episodes = finished(made)
        norms = self._norms(made, episodes)
        losses = made.bare_losses([a for e in made.episodes for a in e.own if a.agent != BASE])
        return {episode.id: self._rating(episode, norms[episode.task.id], losses) for episode in episodes}

    def _norms(self, made: Collected, episodes: list[Episode]) -> dict[str, float]:
        """Task id -> T_norm, from all ranks' episodes."""
        counts = [pair for part in made.gather([(e.task.id, spent(e)) for e in episodes]) for pair in part]
        if self._percentile is not None and counts:
            import numpy as np

            norm = float(np.percentile([count for _, count in counts], self._percentile)) + 1.0
            return dict.fromkeys((task for task, _ in counts), norm)
        norms: dict[str, float] = defaultdict(lambda: 1.0)
        for task, count in counts:
            norms[task] = max(norms[task], float(count))
        return norms

    def _rating(self, episode: Episode, norm: float, losses: dict[str, float]) -> Rating:
        messages = [action for action in episode.actions if action.agent != BASE]
        too_long = any(len(action.completion_ids) > self._longest for action in messages)
        task = self._task * episode.grade.score
        count = spent(episode)
        tokens = -1.0 if too_long or count <= self._least_tokens else -count / norm
        worst = max((losses[action.id] for action in messages), default=0.0)
        readable = -1.0 if too_long else _readability(messages, worst)
        parts = {"task": task, "tokens": self._tokens * tokens, "loss": self._loss * readable}
        return Rating(sum(parts.values()), parts | {"spent": float(count), "lm_loss": worst})


def _readability(messages: list[Action], worst: float) -> float:
    texts = [action.text.strip() for action in messages]
    if not all(texts):
        return -1.0
    if len(set(texts)) < len(texts) or worst <= 0:
        return 0.0
    return 1.0 / worst
