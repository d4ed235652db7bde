"""Held-out problems that are training problems in another dress. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from mappa.errors import TaskError
from mappa.types import Task

_LATEX_DRESS = re.compile(
    r"\\(?:left|right|displaystyle|text|mathrm|quad|qquad|[dt](?=frac)|[,;:!\s()\[\]])|[\s${}~\\]"
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
GRAM, CONTAINED, SHORTEST = 8, 0.7, 30
"""Near-duplicates: characters of an n-gram, share of n-grams, and the shortest normal form that has any."""
_NOT_CONTENT = re.compile(r"[^\w+\-*/^=<>.]|\.(?!\d)")


def normalised(question: str) -> str:
    """A problem's text without case, spacing, punctuation and LaTeX dressing: equal for the same problem."""
    text = unicodedata.normalize("NFKC", question).casefold()
    return _NOT_CONTENT.sub("", _LATEX_DRESS.sub("", text))


def refuse_overlap(train: Sequence[Task], held_out: Sequence[Task], name: str) -> None:
    """Raise `TaskError`, with examples and the way out, if validation set `name` holds problems of `train`."""
    pairs = {task.id: (task, twin) for task, twin in twins(train, held_out)}
    if not pairs:
        return
    shown = [(task, twin, " ".join(task.question[:40].split())) for task, twin in list(pairs.values())[:3]]
    examples = "; ".join(f'{task.id} = {twin.id} ("{start}...")' for task, twin, start in shown)
    raise TaskError(
        f"{len(pairs)} of the {len(held_out)} problems of validation set {name} are also training problems: "
        f"{examples}; take {name} out of task.validation, or set task.drop_overlap=true to train without them"
    )


def twins(train: Sequence[Task], held_out: Sequence[Task]) -> list[tuple[Task, Task]]:
    """Each held-out task that is also a training task, with that one: the same text, or nearly.

    Nearly: `CONTAINED` of the shorter text's n-grams of `GRAM` characters stand in the longer one, and so do all of its
    numbers. So a prefix, an appended instruction, a wrapper or a typo hides nothing, and problems of one template are
    different where their numbers are.
    """
    exact = {normalised(task.question): task for task in train}
    grams = [_grams(normalised(task.question)) for task in held_out]
    holders: dict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(grams):
        for gram in found:
            holders[gram].append(index)
    pairs = [(task, exact[key]) for task in held_out if (key := normalised(task.question)) in exact]
    for task in train:
        mine = _grams(normalised(task.question))
        shared = Counter(index for gram in mine for index in holders.get(gram, ()))
        for index, count in shared.items():
            if count >= CONTAINED * min(len(mine), len(grams[index])) and _numbers_agree(task, held_out[index]):
                pairs.append((held_out[index], task))
    return pairs


def _grams(text: str) -> set[str]:
    """None of a text that is too short to tell by its parts."""
    return {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)} if len(text) >= SHORTEST else set()


def _numbers_agree(one: Task, other: Task) -> bool:
    """Whether all numbers of the shorter question stand in the longer one."""
    shorter, longer = sorted((one.question, other.question), key=len)
    return not Counter(_NUMBER.findall(shorter)) - Counter(_NUMBER.findall(longer))
