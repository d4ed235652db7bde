"""A tree of turns: promising and novel messages are gone on from again (Optima's iDPO, arXiv 2410.08115)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from mappa.reward.base import spent
from mappa.search.base import Node, distance, grow, nodes
from mappa.seed import stable_seed
from mappa.types import Episode, Task

if TYPE_CHECKING:
    from annotated_types import Ge, Le
    from pydantic import NonNegativeFloat, PositiveInt


class Tree:
    """Groups of `rollouts` attempts: the first group starts at the root, every other at a node that is drawn.

    Candidates are nodes with grandchildren (neither leaves nor last but one) that were not expanded before and whose
    message is at least `novelty` away from every expanded one's; of the `best` with the highest values one is drawn by
    softmax. Without a candidate the group starts at the root again.

    Departures from the paper and its code:
      1. Values that guide the search are grade - tokens * spent / longest, which is known while episodes are played;
         the full reward, with its loss term, enters afterwards, for the pairs.
      2. Distances are relative to the longer text (code: + 1).
    """

    def __init__(
        self,
        groups: PositiveInt = 8,
        rollouts: PositiveInt = 3,
        merge: Annotated[float, Ge(0), Le(1)] = 0.1,
        novelty: Annotated[float, Ge(0), Le(1)] = 0.25,
        best: PositiveInt = 10,
        tokens: NonNegativeFloat = 0.6,
    ) -> None:
        """
        Args:
            groups, rollouts: attempts at a task = their product.
            merge: relative edit distance below which a new message joins a sibling.
            tokens: weight of the length in the values that guide.
        """
        self.attempts = groups * rollouts
        self._rollouts, self._merge, self._novelty, self._best, self._tokens = rollouts, merge, novelty, best, tokens

    def branch(self, task: Task, made: Sequence[Episode], seed: int) -> tuple[Episode, int] | None:
        expanded: list[Node] = []
        for group in range(1, len(made) // self._rollouts + 1):
            root = grow(made[: group * self._rollouts], self._merge)
            expanded = [self._same(root, node) for node in expanded]
            drawn = self._draw(root, expanded, random.Random(stable_seed(seed, "expand", group)))
            if drawn is not None:
                expanded.append(drawn)
        if len(made) < self._rollouts or drawn is None:
            return None
        episode, index = drawn.actions[0]
        return episode, index + 1

    def _same(self, root: Node, node: Node) -> Node:
        """An earlier tree's node in a larger one."""
        return next(found for found in nodes(root) if found.action.id == node.action.id)

    def _draw(self, root: Node, expanded: Sequence[Node], rng: random.Random) -> Node | None:
        lengths = [spent(episode) for episode in root.episodes]
        longest = max([*lengths, 1])

        def value(episode: Episode) -> float | None:
            grade = None if episode.grade is None else episode.grade.score
            return None if grade is None else grade - self._tokens * spent(episode) / longest

        candidates = [
            (known, node)
            for node in nodes(root)
            if any(child.children for child in node.children)
            and all(node is not other for other in expanded)
            and all(distance(node.action.text, other.action.text) >= self._novelty for other in expanded)
            and (known := node.value(value)) is not None
        ]
        top = sorted(candidates, key=lambda pair: -pair[0])[: self._best]
        if not top:
            return None
        return rng.choices([node for _, node in top], [math.exp(known) for known, _ in top])[0]
