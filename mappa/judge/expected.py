"""The expected score over the score token's distribution: its mean beats its mode (arXiv 2503.03064).

Pure. Answers None wherever the distribution cannot be read exactly, and the written score stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Distribution = Mapping[str, float]
"""Token text -> log-probability (natural), the chosen token included."""

MIN_MASS = 0.5
"""Least probability that the listed whole numbers must have together."""
MAX_AMBIGUOUS = 0.02
"""Most probability on a `1` that may have become either 1 or 10."""


def expected_score(tokens: Sequence[tuple[str, Distribution]], number: str) -> float | None:
    """Mean of the whole numbers 0-10 under the distribution from which the score `number` was sampled.

    Args:
        tokens: the reply's tokens in order, each with its alternatives.
        number: the score as it was written; only whole numbers (`8`, `10`) have a readable distribution.
    """
    if not number.isascii() or not number.isdigit():
        return None
    place = _find(tokens, number)
    if place is None:
        return None
    mass = _whole_numbers(tokens[place][1])
    split = tokens[place][0].strip() != number
    if split:
        mass = _resolve_one(mass, tokens[place + 1][1])
    elif mass.get(1, 0.0) > MAX_AMBIGUOUS and 10 not in mass:
        if number != "1" or place + 1 >= len(tokens):
            return None
        mass = _resolve_one(mass, tokens[place + 1][1])
    total = sum(mass.values())
    if total < MIN_MASS:
        return None
    return sum(score * weight for score, weight in mass.items()) / total


def _find(tokens: Sequence[tuple[str, Distribution]], number: str) -> int | None:
    """Index of the last token that begins `number`: as one token, or as `1` then `0`."""
    for index in reversed(range(len(tokens))):
        text = tokens[index][0].strip()
        following = tokens[index + 1][0] if index + 1 < len(tokens) else ""
        if text == number and not following[:1].isdigit():
            return index
        if number == "10" and text == "1" and following.rstrip() == "0":
            return index
    return None


def _whole_numbers(distribution: Distribution) -> dict[int, float]:
    """Probability of each whole number 0-10 that is one token; spaced variants are added up."""
    mass: dict[int, float] = {}
    for text, logprob in distribution.items():
        digits = text.strip()
        if digits.isascii() and digits.isdigit() and str(int(digits)) == digits and int(digits) <= 10:
            mass[int(digits)] = mass.get(int(digits), 0.0) + math.exp(logprob)
    return mass


def _resolve_one(mass: dict[int, float], following: Distribution) -> dict[int, float]:
    """Share the probability of a first digit `1` between 1 and 10, as the next token's distribution says."""
    zero = sum(math.exp(logprob) for text, logprob in following.items() if text.strip() == "0")
    one = mass.get(1, 0.0)
    shared = dict(mass)
    shared[1] = one * (1.0 - zero)
    shared[10] = mass.get(10, 0.0) + one * zero
    return shared
