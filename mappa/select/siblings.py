"""Pairs of messages that were said in the same place, one better than the other (Optima's iDPO, arXiv 2410.08115)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated

from mappa.epoch import Collected
from mappa.reward.base import Rating
from mappa.search.base import Node, grow, nodes
from mappa.select.base import Choice, Chosen, purity
from mappa.types import BASE, Episode

if TYPE_CHECKING:
    from annotated_types import Ge, Gt, Le
    from pydantic import NonNegativeFloat

    from mappa.task.base import TaskSet


class Siblings:
    """Children of one node of a task's attempts: the chosen one's value exceeds `least`, and the other's by `gap`.

    A value is the mean rating of the attempts that pass through a message.

    Departure from the paper: a message that was merged with a sibling keeps its own tokens, so a pair is made only of
    messages with the very same context.
    """

    group = 2
    needs_ratings = True

    def __init__(
        self,
        least: float = 0.4,
        gap: NonNegativeFloat = 0.2,
        share: Annotated[float, Gt(0), Le(1)] = 0.5,
        all_pairs: bool = False,
        merge: Annotated[float, Ge(0), Le(1)] = 0.1,
    ) -> None:
        """
        Args:
            least: value of the chosen message.
            gap: between the values of a pair.
            share: of everyone's pairs, by the chosen one's value; rounded down, at least one.
            all_pairs: of a node's children (the paper), instead of its best and worst (the authors' code).
            merge: relative edit distance below which messages are one.
        """
        self._least, self._gap, self._share, self._all_pairs, self._merge = least, gap, share, all_pairs, merge

    def check(self, seats: Mapping[str, str], task_set: TaskSet) -> None:
        """Any team will do."""

    def choose(self, made: Collected, ratings: Mapping[str, Rating]) -> Chosen:
        """A task's attempts lie on one rank."""
        by_task: dict[str, list[Episode]] = defaultdict(list)
        for episode in made.episodes:
            by_task[episode.task.id].append(episode)
        mine = [pair for attempts in by_task.values() for pair in self._pairs(attempts, ratings)]
        ranked = sorted(key for part in made.gather([key for key, _, _ in mine]) for key in part)
        kept = set(ranked[: max(1, int(self._share * len(ranked)))])
        groups = [(chosen, rejected) for key, chosen, rejected in mine if key in kept]
        metrics = {"select/pairs": float(len(kept)), "select/pairs_found": float(len(ranked))}
        return Chosen(groups, metrics | purity([choice for group in groups for choice in group], made, graded=False))

    def _pairs(
        self, attempts: list[Episode], ratings: Mapping[str, Rating]
    ) -> Iterator[tuple[tuple[float, str, str], Choice, Choice]]:
        """With what they are ranked by: the chosen one's value, the highest first, then ids."""

        def rating(episode: Episode) -> float | None:
            found = ratings.get(episode.id)
            return None if found is None else found.total

        root = grow(attempts, self._merge)
        for node in [root, *nodes(root)]:
            children = [(value, child) for child in node.children if (value := child.value(rating)) is not None]
            ordered = sorted(children, key=lambda pair: (-pair[0], pair[1].action.id))
            tried = product(ordered, ordered) if self._all_pairs else zip(ordered[:1], ordered[-1:], strict=True)
            for (high, better), (low, worse) in tried:
                if high > self._least and high - low > self._gap and _comparable(better, worse):
                    task = better.episodes[0].task
                    key = (-high, better.action.id, worse.action.id)
                    yield key, Choice(better.action, task, 1.0), Choice(worse.action, task, -1.0)


def _comparable(better: Node, worse: Node) -> bool:
    one, other = better.action, worse.action
    same = one.agent == other.agent != BASE and one.context_ids == other.context_ids
    return same and not one.truncated and not other.truncated
