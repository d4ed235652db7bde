"""What a judge costs: prices, the budget, and what a run may cost, said before the first call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Money:
    """Dollars; prices a million tokens."""

    price_in: NonNegativeFloat | None = None
    """null: the list price, as the package genai-prices has it; not known for an endpoint that is not in it."""
    price_out: NonNegativeFloat | None = None
    budget: PositiveFloat | None = None
    """What this run's calls may cost in all, resumed or not; past it actions stay unjudged."""
    expected_tokens_in: PositiveInt = 3000
    """Of one call, for the forecast, until the ledger knows better."""
    expected_tokens_out: PositiveInt = 300

    def prices(self, model: str, base_url: str) -> Prices | None:
        """As set, else by the list; None = not known."""
        if self.price_in is not None and self.price_out is not None:
            return Prices(self.price_in, self.price_out)
        listed = list_price(model, base_url)
        if listed is None:
            return None
        given = (self.price_in, self.price_out)
        return Prices(*(own if own is not None else theirs for own, theirs in zip(given, listed, strict=True)))


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


def list_price(model: str, base_url: str) -> tuple[float, float] | None:
    """Dollars per million tokens in and out of a model at its provider's own endpoint."""
    from genai_prices import Usage, calc_price

    try:
        asked = (Usage(input_tokens=1_000_000), Usage(output_tokens=1_000_000))
        found = [float(calc_price(usage, model, provider_api_url=base_url).total_price) for usage in asked]
    except LookupError:
        return None
    return found[0], found[1]


def forecast(
    name: str,
    tokens: tuple[float, float],
    each: float | None,
    spent: float,
    actions: int | None,
    budget: float | None,
) -> tuple[str, bool]:
    """One line, and whether the budget is too small for what is expected. Pure.

    Args:
        name: model and host.
        tokens: prompt and reply tokens of one call.
        each: dollars per action; None = prices not known.
        spent: dollars spent so far.
        actions: how many will be scored at most, if that is known.
        budget: dollars in all.
    """
    parts = [f"judge {name}: about {tokens[0]:,.0f} + {tokens[1]:,.0f} tokens a call"]
    if each is None:
        return "; ".join([*parts, "cost unknown: set judge.money.price_in and judge.money.price_out"]), False
    parts.append(f"${each:.5f} an action, ${spent:,.2f} spent so far")
    expected = each * (actions or 0)
    if actions:
        parts.append(f"{actions:,} actions, at most, cost about ${expected:,.2f}")
    if budget is None:
        return "; ".join([*parts, "no budget is set"]), False
    left = max(0.0, budget - spent)
    more = f"about {left / each:,.0f} more actions" if each else "any number of actions"
    parts.append(f"the budget of ${budget:,.2f} pays for {more}")
    return "; ".join(parts), expected > left
