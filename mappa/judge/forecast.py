"""What a run with a paid judge may cost, said before the first call. Pure."""

from __future__ import annotations


def forecast(
    name: str,
    tokens: tuple[float, float],
    each: float,
    spent: float,
    actions: int | None,
    budget: float | None,
) -> tuple[str, bool]:
    """One line, and whether the budget is too small for what is expected.

    Args:
        name: model and host.
        tokens: prompt and reply tokens of one call.
        each: dollars per action; 0 = prices not known.
        spent: dollars spent so far.
        actions: how many will be scored, if that is known.
        budget: dollars in all.
    """
    parts = [f"judge {name}: about {tokens[0]:,.0f} + {tokens[1]:,.0f} tokens a call"]
    if not each:
        return "; ".join([*parts, "cost unknown: judge.price_in and judge.price_out are not set"]), False
    parts.append(f"${each:.5f} an action, ${spent:,.2f} spent so far")
    expected = each * (actions or 0)
    if actions:
        parts.append(f"{actions:,} actions cost about ${expected:,.2f}")
    if budget is None:
        return "; ".join([*parts, "no budget is set"]), False
    left = max(0.0, budget - spent)
    parts.append(f"the budget of ${budget:,.2f} pays for about {left / each:,.0f} more actions")
    return "; ".join(parts), expected > left
