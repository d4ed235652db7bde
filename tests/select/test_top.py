"""Four tasks, three attempts each, with written ratings: which attempts are learned."""

from __future__ import annotations

import pytest

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.reward.base import Rating
from mappa.select.top import Top
from mappa.types import Episode, Grade, StopReason, Task
from tests.conftest import make_action

TOTALS = {"a": (0.9, 0.9, 0.2), "b": (0.7, 0.8, 0.6), "c": (0.1, 0.2, 0.3), "d": (0.6, 0.55, 0.95)}


def episodes(cut: str = "") -> list[Episode]:
    found = []
    for task, totals in TOTALS.items():
        for k in range(len(totals)):
            name = f"{task}{k}"
            stop = StopReason.LENGTH if name == cut else StopReason.STOP
            actions = tuple(
                make_action("agent", name=f"{name}/{i}", stop=stop, text=f"{task} says {k}") for i in (0, 1)
            )
            found.append(Episode(name, Task(task, "q"), 0, actions, "", Grade(1.0)))
    return found


def chosen(select: Top, made: list[Episode], gather=lambda value: [value]) -> list[str]:
    ratings = {e.id: Rating(TOTALS[e.id[0]][int(e.id[1])], {"task": 1.0}) for e in made}
    found = select.choose(Collected(made, {}, 0, None, None, (), gather), ratings)
    return list(dict.fromkeys(group[0].action.id.partition("/")[0] for group in found.groups))


def test_the_best_of_each_task_and_of_those_the_best_share():
    assert chosen(Top(share=1.0), episodes()) == ["a0", "b1", "d2"], "ties by id; nothing of c passes"
    assert chosen(Top(share=0.7), episodes()) == ["a0", "d2"], "two of three"
    assert chosen(Top(share=0.1), episodes()) == ["d2"], "one at least"
    assert chosen(Top(share=1.0, per_task=2), episodes()) == ["a0", "a1", "b0", "b1", "d0", "d2"]
    assert chosen(Top(share=1.0, threshold=0.85), episodes()) == ["a0", "d2"]
    assert chosen(Top(share=1.0, threshold_on="task", threshold=0.5), episodes()) == ["a0", "b1", "c2", "d2"]


def test_every_action_of_a_chosen_attempt_is_learned():
    made = episodes()
    ratings = {"d2": Rating(1.0, {})}
    groups = Top().choose(Collected(made, {}, 0, None, None, (), lambda value: [value]), ratings).groups
    assert [[choice.action.id for choice in group] for group in groups] == [["d2/0"], ["d2/1"]]


def test_a_truncated_winner_is_passed_over():
    assert chosen(Top(share=1.0), episodes(cut="d2")) == ["a0", "b1", "d0"]


def test_a_band_of_ranks_instead_of_the_best():
    assert chosen(Top(band=(0.34, 1.0)), episodes()) == ["a0", "b1"], "without the first of three"
    with pytest.raises(ConfigError, match="must be two shares between 0 and 1"):
        Top(band=(0.8, 0.1))


def test_distinct_attempts_skip_near_copies():
    assert chosen(Top(share=1.0, per_task=3, threshold=0.85, distinct=0.0), episodes()) == ["a0", "a1", "d2"]
    assert chosen(Top(share=1.0, per_task=3, threshold=0.85, distinct=0.3), episodes()) == ["a0", "d2"]


def test_two_ranks_decide_as_one():
    whole = episodes()
    parts: list[object] = []
    for rank in (0, 1):  # what each would tell the others
        chosen(Top(), whole[rank::2], lambda value: parts.append(value) or [value])
    told = parts[0], parts[3]  # attempts, and later numbers, of either rank
    ours = [
        chosen(Top(), whole[rank::2], lambda value: list(told) if isinstance(value, list) else [value])
        for rank in (0, 1)
    ]
    assert sorted(ours[0] + ours[1]) == chosen(Top(), whole)
