"""Acts -> micro-batches: laid out alone, beside others that begin alike, or one after another. Pure.

Samples of one task begin with the same prompt. In one row with them, it is computed once: a token sees those before it
that lead to it, and no other's (a tree, as in arXiv 2305.09781). Nothing is seen across acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mappa.learn.rows import Act, Row, acts, units
from mappa.policy.attention import Packing

Line = Sequence[Act]
"""Acts of one adapter that are one row of a micro-batch, in the order of their tokens."""
DENSE_TOKENS = 4096
"""Of a line whose mask is a square of so many tokens, at most."""
WASTE = 1.1
"""Tokens computed over tokens needed, at most, in a micro-batch of several rows."""


@dataclass(frozen=True)
class Layout:
    """The tokens of a line, and what they see."""

    ids: list[int]
    positions: list[int]
    """Of each token in its own act."""
    ends: list[int]
    """Token j is seen from the places j <= i < ends[j]."""
    starts: list[int]
    """Where the completion of each action begins, act by act."""


def lay_out(line: Line) -> Layout:
    """One act after the other; what an act begins alike with the one before it is not there again.

    Only tokens before the last of a prompt are shared, so that each sampled token has the one before it on its left.
    """
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    starts: list[int] = []
    path: list[int] = []  # where the tokens of the act before are
    for number, act in enumerate(line):
        alike = _alike(line[number - 1], act) if number else 0
        for place in path[alike:]:
            ends[place] = len(ids)
        own = act[-1].ids[alike:]
        path[alike:] = range(len(ids), len(ids) + len(own))
        ids += own
        positions += range(alike, alike + len(own))
        ends += [0] * len(own)
        starts += [path[_prompt(act, turn)] + 1 for turn in range(len(act))]
    for place in path:
        ends[place] = len(ids)
    return Layout(ids, positions, ends, starts)


def length(line: Line) -> int:
    """Tokens of its layout."""
    again = sum(_alike(before, act) for before, act in pairwise(line))
    return sum(act[-1].length for act in line) - again


def fill(acts: Sequence[Act], packing: Packing, most: int) -> list[Line]:
    """Lines of acts of one adapter, in the order given.

    Args:
        most: tokens of a line of several acts.
    """
    lines: list[list[Act]] = []
    tokens = squares = 0
    for act in acts:
        size = act[-1].length
        if lines and packing is not Packing.ALONE:
            alike = _alike(lines[-1][-1], act)
            together = tokens + size - alike
            dense = alike and together <= DENSE_TOKENS and together**2 <= squares + size**2
            if together <= most and (packing is Packing.FULL or dense):
                lines[-1].append(act)
                tokens, squares = together, squares + size**2
                continue
        lines.append([act])
        tokens, squares = size, size**2
    return lines


def _alike(before: Act, act: Act) -> int:
    """Tokens that both begin with and that neither said, but for the last of a prompt."""
    most = max(0, min(_prompt(before, 0), _prompt(act, 0)))
    mine, its = act[-1].ids, before[-1].ids
    if mine[:most] == its[:most]:
        return most
    return next(place for place in range(most) if mine[place] != its[place])


def _prompt(act: Act, turn: int) -> int:
    """Place of the last token before a turn's completion."""
    return len(act[turn].sample.action.context_ids) - 1


def cut_micro_batches(
    rows: Sequence[Row],
    token_budget: int,
    by_agent: bool = True,
    mix: bool = True,
    packing: Packing = Packing.ALONE,
) -> list[list[Line]]:
    """Lines sorted by length and cut so that lines x longest line, padding included, stays within `token_budget`
    tokens, and within `WASTE` of the tokens that there are.

    A single unit longer than the budget gets a micro-batch of its own.

    Args:
        by_agent: as of `acts`.
        mix: agents share micro-batches.
        packing: which acts share a line.
    """
    batches: list[list[Line]] = []
    width = needed = 0
    parts = _lines(rows, token_budget, by_agent, packing)
    order = sorted(parts, key=lambda unit: (mix or speaker(unit[0]), -_longest(unit), unit[0][0][0].sample.action.id))
    for unit in order:
        tokens = sum(map(length, unit))
        computed = width * (len(batches[-1]) + len(unit)) if batches else 0
        alike = bool(batches) and (mix or speaker(batches[-1][0]) == speaker(unit[0]))
        if alike and computed <= min(token_budget, WASTE * (needed + tokens)):
            batches[-1] += unit
            needed += tokens
        else:
            batches.append(list(unit))
            width, needed = _longest(unit), tokens
    return batches


def _lines(rows: Sequence[Row], token_budget: int, by_agent: bool, packing: Packing) -> list[list[Line]]:
    """Units of lines that are learned together: acts of one group, in their order, else one line each."""
    found = units(rows) if by_agent else [[act] for act in acts(rows, by_agent=False)]
    if packing is Packing.ALONE:
        return [[[act] for act in unit] for unit in found]
    single: dict[str, list[Act]] = {}
    for act, *_ in (unit for unit in found if not unit[0][0].group):
        single.setdefault(act[0].agent if by_agent else "", []).append(act)
    longest = max((act[-1].length for unit in found for act in unit), default=0)
    most = max(longest, token_budget // max(1, len(single)))
    lines = [fill(unit, packing, most) for unit in found if unit[0][0].group]
    for mine in single.values():
        mine.sort(key=lambda act: act[-1].ids)
        lines += [[line] for line in fill(mine, packing, most)]
    return lines


def speaker(line: Line) -> str:
    """Whose acts they are; where all speak with one voice, the first one's."""
    return line[0][0].agent


def _longest(lines: Sequence[Line]) -> int:
    return max(map(length, lines))


def computed_tokens(batches: Sequence[Sequence[Line]]) -> int:
    """Of one forward pass over micro-batches, padding included."""
    return sum(len(batch) * _longest(batch) for batch in batches)
