"""How much a reward says of an agent's own action, and what that costs in episodes. Pure.

With K agents in a chain, each right with probability p and all others with q = p^(K-1), the squared correlation of the
shared outcome with an agent's own correctness is q (1 - p) / (1 - p q); a policy gradient with a reward of squared
correlation rho2 needs about 1 / rho2 times the episodes of one with a perfect judge.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def rho2(values: Sequence[float], right: Sequence[float]) -> float | None:
    """Squared Pearson correlation; None where one side does not vary."""
    try:
        return statistics.correlation(values, right) ** 2
    except statistics.StatisticsError:
        return None


def rho2_outcome(p: float, agents: int) -> float:
    """Of the shared outcome of a chain in which every one of the `agents` is right with probability p < 1."""
    q = p ** (agents - 1)
    return q * (1 - p) / (1 - p * q)


def rho2_flips(p: float, flips: float) -> float:
    """Of a judge of single actions who errs with probability `flips` either way."""
    said = p * (1 - flips) + (1 - p) * flips
    return (1 - 2 * flips) ** 2 * p * (1 - p) / (said * (1 - said))


def break_even(p: float, agents: int) -> float:
    """Share of symmetric flips at which a judge of single actions says no more than the shared outcome."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rho2_flips(p, middle) > rho2_outcome(p, agents) else (low, middle)
    return low
