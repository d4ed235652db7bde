"""What every search offers, and the tree that attempts with common beginnings form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from mappa.types import Action, Episode, Task


class Search(Protocol):
    """Pure: the same attempts and seed give the same branch, so that a resumed run grows the same tree."""

    attempts: int
    """At each task."""

    def branch(self, task: Task, made: Sequence[Episode], seed: int) -> tuple[Episode, int] | None:
        """Where the next attempt begins: it replays so many actions of that episode and goes on; None = from the start.

        Args:
            made: the attempts so far, in order.
            seed: of the task in this epoch; the same for all its attempts.
        """


@dataclass
class Node:
    """What attempts have in common up to some action; the root stands before the first."""

    parent: Node | None = None
    actions: list[tuple[Episode, int]] = field(default_factory=list)
    """Where it was said: (episode, index). The first is the message that stands for the node."""
    children: list[Node] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    """Attempts that pass through it."""

    @property
    def action(self) -> Action:
        episode, index = self.actions[0]
        return episode.actions[index]

    def value(self, rating: Callable[[Episode], float | None]) -> float | None:
        """Mean rating of the attempts that pass through; None where none is rated."""
        known = [value for value in map(rating, self.episodes) if value is not None]
        return sum(known) / len(known) if known else None


def grow(episodes: Sequence[Episode], merge: float) -> Node:
    """The tree of some attempts.

    A replayed action is the same node; so is a new message nearer than `merge` (relative edit distance) to a sibling.
    """
    root = Node()
    for episode in episodes:
        node = root
        root.episodes.append(episode)
        for index, action in enumerate(episode.actions):
            node = _child(node, action, merge)
            node.actions.append((episode, index))
            node.episodes.append(episode)
    return root


def _child(node: Node, action: Action, merge: float) -> Node:
    for child in node.children:
        if any(episode.actions[index].id == action.id for episode, index in child.actions):
            return child
    for child in node.children:
        if child.action.seat == action.seat and distance(child.action.text, action.text) < merge:
            return child
    node.children.append(Node(parent=node))
    return node.children[-1]


def nodes(root: Node) -> list[Node]:
    """All but the root, in the order in which they were made, parents first."""
    found: list[Node] = []
    queue = list(root.children)
    while queue:
        found.append(queue.pop(0))
        queue += found[-1].children
    return found


@lru_cache(maxsize=1 << 16)
def distance(a: str, b: str) -> float:
    """Levenshtein distance over the longer text's length, 0-1; two empty texts are the same.

    A tree is grown anew for each attempt, so the same pairs are asked for again and again.
    """
    if a == b:
        return 0.0
    if not a or not b:
        return 1.0
    import numpy as np

    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    columns = np.frombuffer(longer.encode("utf-32-le"), np.uint32)
    offsets = np.arange(len(columns) + 1)
    row = offsets.copy()
    for count, letter in enumerate(np.frombuffer(shorter.encode("utf-32-le"), np.uint32), start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (columns != letter))
        row = np.minimum.accumulate(np.concatenate([[count], changed]) - offsets) + offsets  # then insertions
    return float(row[-1]) / len(columns)
