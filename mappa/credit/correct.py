"""A judge of right and wrong with known rates of error: rewards that are unbiased all the same (arXiv 2510.00915)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from mappa.credit.base import Credited, Gather
from mappa.credit.reinforce_pp import ReinforcePP
from mappa.errors import ConfigError
from mappa.types import Sample

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat


class Correct(ReinforcePP):
    """r' = (r - rho0) / (1 - rho0 - rho1): eq. of the backward correction, then whitened as in `reinforce_pp`.

    rho0 is the share of wrong actions that the judge calls right (`miss`), rho1 that of right ones it calls wrong
    (`false_alarm`), of each seat: seats with the same adapter, or with `scope: team` all, are put on one scale.

    Departures from the paper:
      1. rewards may lie between 0 and 1: a score is taken for the probability that the judge says right;
      2. where all actions that are whitened together have the same rates this changes nothing, since whitening undoes
         any shift and scale: then it is the number of episodes that pays for the judge's errors.
    """

    def __init__(
        self,
        rates: Mapping[str, Mapping[Literal["miss", "false_alarm"], float]],
        audit: str | None = None,
        beta: NonNegativeFloat = 0.01,
        scope: Literal["agent", "team"] = "agent",
    ) -> None:
        """
        Args:
            rates: seat -> {miss, false_alarm}; `all`: of every other seat.
            audit: file that `python -m mappa.audit` wrote of this judge; its rates go before the others.
            beta: as in `reinforce_pp`.
            scope: as in `reinforce_pp`.
        """
        super().__init__(beta, scope)
        rates = {**rates, **(_audited(audit) if audit else {})}
        self._rates = {seat: (found.get("miss", 0.0), found.get("false_alarm", 0.0)) for seat, found in rates.items()}
        for seat, (miss, alarm) in self._rates.items():
            if not (miss >= 0 and alarm >= 0 and miss + alarm < 1):
                raise ConfigError(
                    f"credit.rates.{seat}: miss={miss:g} and false_alarm={alarm:g} must be shares with a sum below 1; "
                    "a judge who errs more says nothing"
                )

    def advantages(self, samples: Sequence[Sample], kl: Sequence[Tensor | None], gather: Gather) -> Credited:
        rewards = [self._unbiased(sample) if sample.valid else None for sample in samples]
        return self._whitened(samples, rewards, kl, gather)

    def _unbiased(self, sample: Sample) -> float:
        seat = sample.action.seat
        rates = self._rates.get(seat, self._rates.get("all"))
        if rates is None:
            raise ConfigError(f"credit.rates has neither the seat '{seat}' nor `all`")
        miss, alarm = rates
        return (sample.reward - miss) / (1.0 - miss - alarm)


def _audited(path: str) -> dict[str, dict[str, float]]:
    try:
        found = {line["name"]: line["numbers"] for line in json.loads(Path(path).read_text())["lines"]}
        return {
            seat: {name: float(seen[name]) for name in ("miss", "false_alarm")} for seat, seen in found["rates"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"credit.audit={path} holds no rates of a judge ({type(error).__name__})"
        raise ConfigError(f"{why}; python -m mappa.audit writes such a file under outputs/audit") from None
