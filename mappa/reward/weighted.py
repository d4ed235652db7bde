"""A weighted sum of success, frugality and form."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.reward.base import Rating, finished, spent
from mappa.types import BASE

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat, PositiveInt


class Weighted:
    """R = task * grade + tokens * max(0, 1 - T / max_tokens) + form * (share of messages in the form asked for)."""

    def __init__(
        self,
        task: NonNegativeFloat = 0.5,
        tokens: NonNegativeFloat = 0.3,
        form: NonNegativeFloat = 0.2,
        max_tokens: PositiveInt = 15000,
        pattern: str = "json:",
    ) -> None:
        """
        Args:
            max_tokens: of an episode, from which on nothing is given for frugality.
            pattern: a regular expression that a whole message has to match; or `json:key,...`: a JSON object with these
                keys.
        """
        self._task, self._tokens, self._form, self._max_tokens = task, tokens, form, max_tokens
        self._keys = [key for key in pattern.removeprefix("json:").split(",") if key]
        try:
            self._pattern = None if pattern.startswith("json:") else re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"reward.pattern={pattern} is no regular expression: {error}") from None

    def rate(self, made: Collected) -> dict[str, Rating]:
        return {
            episode.id: self._rating(
                episode.grade.score, spent(episode), [a.text for a in episode.actions if a.agent != BASE]
            )
            for episode in finished(made)
        }

    def _rating(self, score: float, count: int, messages: list[str]) -> Rating:
        share = sum(self._formed(message) for message in messages) / max(1, len(messages))
        parts = {
            "task": self._task * score,
            "tokens": self._tokens * max(0.0, 1.0 - count / self._max_tokens),
            "form": self._form * share,
        }
        return Rating(sum(parts.values()), parts | {"spent": float(count)})

    def _formed(self, message: str) -> bool:
        if self._pattern is not None:
            return self._pattern.fullmatch(message.strip()) is not None
        try:
            found = json.loads(message)
        except ValueError:
            return False
        return isinstance(found, dict) and all(key in found for key in self._keys)
