"""What every credit scheme offers, and the statistics they share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mappa.types import Sample

Gather = Callable[[Any], list[Any]]
"""One object of this rank -> the objects of all ranks. `lambda x: [x]` on a single process."""


@dataclass(frozen=True)
class Credited:
    """Per-token advantages of the samples, in their order; None where a sample is not learned from."""

    advantages: list[Tensor | None]
    """Each float32 of shape (completion length,)."""
    metrics: dict[str, float] = field(default_factory=dict)


class Credit(Protocol):
    kl_in_reward: float
    """beta of the k1 penalty inside the reward; 0 = the advantages need no reference log-probabilities."""
    kl_in_loss: float
    """Coefficient of the separate KL term; 0 = none."""
    kl_estimator: str
    """`k2` or `k3`, of the separate term."""

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        """Assign advantages to this rank's samples.

        Args:
            samples: this rank's actions; invalid ones (unjudged, truncated) enter nothing.
            kl: per sample log pi_old - log pi_ref at each completion token; None where not valid or not needed.
            gather: collective; every rank calls `advantages` once, also with no samples.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it remembers from one epoch to the next, the same on all ranks; kept in checkpoints."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `state_dict` gave it."""


class BaseCredit:
    """Defaults: no KL, and nothing to remember from one epoch to the next."""

    kl_in_reward = 0.0
    kl_in_loss = 0.0
    kl_estimator = "k2"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Moments(NamedTuple):
    mean: float
    std: float
    """Of the population."""
    count: int


def moments(values: Sequence[tuple[Hashable, Tensor]], gather: Gather) -> dict[Hashable, Moments]:
    """Moments over all tokens of each key, over all ranks, in one exchange.

    Sums are exactly rounded (`math.fsum`), so the result does not depend on the order of samples or ranks.
    """
    mine = [(key, v.numel(), v.double().sum().item(), v.double().square().sum().item()) for key, v in values]
    groups: dict[Hashable, list[tuple[int, float, float]]] = defaultdict(list)
    for part in gather(mine):
        for key, *sums in part:
            groups[key].append(tuple(sums))
    result = {}
    for key, rows in groups.items():
        count = sum(row[0] for row in rows)
        mean = math.fsum(row[1] for row in rows) / count
        variance = math.fsum(row[2] for row in rows) / count - mean**2
        result[key] = Moments(mean, math.sqrt(max(variance, 0.0)), count)
    return result


def group_key(sample: Sample) -> Hashable:
    """Actions that are alternatives to each other: same task, same agent, same turn."""
    return (sample.task_id, sample.action.agent, sample.action.turn)


def group_rewards(
    samples: Sequence[Sample], gather: Gather, key: Callable[[Sample], Hashable] = group_key
) -> dict[Hashable, Moments]:
    """Moments of the reward of each group of valid samples, over all ranks."""
    return moments([(key(s), torch.tensor([s.reward])) for s in samples if s.valid], gather)
