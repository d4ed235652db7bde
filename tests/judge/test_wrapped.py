"""Judges around another one, on real evidence."""

from __future__ import annotations

import statistics

import pytest

from mappa.judge.base import BaseJudge, Evidence, When
from mappa.judge.rubric.relay import RubricRelayJudge
from mappa.judge.wrapped import MixedJudge, NoisyJudge
from mappa.report.credit import rho2, rho2_flips
from mappa.types import Action, Episode, Grade, StopReason, Task, Verdict

TASK = Task("t", "Start 3\na+4\nb+9", "6", kind="k")


def said(seat: str, text: str, number: int = 0) -> Action:
    return Action(f"e{number}/0", seat, "r", 0, (), (1,), (2,), (0.0,), StopReason.STOP, text, 0)


def evidence(texts: list[str], index: int, score: float | None = None, number: int = 0) -> Evidence:
    actions = tuple(said(f"seat_{'ab'[i]}", text, number) for i, text in enumerate(texts))
    grade = None if score is None else Grade(score)
    return Evidence(TASK, actions, index, Episode("e", TASK, 0, actions, None, grade))


async def test_the_rubric_blames_the_seat_that_slipped():
    judge = RubricRelayJudge()
    texts = ["a+4 3=8", "b+9 8=7"]
    scores = [(await judge.score(evidence(texts, index, 0.0))).score for index in (0, 1)]
    assert scores == [0.0, 10.0]
    assert (await judge.score(evidence(texts, 0))).reason == "wrong: the sum"


async def test_of_the_state_it_says_how_things_stand_whoever_erred():
    judge = RubricRelayJudge(sees="state")
    for texts, stands in ((["a+4 3=7", "b+9 7=6"], [10.0, 10.0]), (["a+4 3=8", "b+9 8=7"], [0.0, 0.0])):
        assert [(await judge.score(evidence(texts, index))).score for index in (0, 1)] == stands


@pytest.mark.parametrize(
    ("faults", "right", "wrong"),
    [
        ({}, 10.0, 0.0),
        ({"false_alarm": 1.0}, 0.0, 0.0),
        ({"miss": 1.0}, 10.0, 10.0),
        ({"bias": {"seat_a": -3.0}}, 7.0, 0.0),
        ({"bias": {"k": 2.0}}, 10.0, 2.0),
        ({"floor": 8.0}, 10.0, 8.0),
        ({"dropout": 1.0}, None, None),
    ],
)
async def test_each_fault(faults, right, wrong):
    judge = NoisyJudge(RubricRelayJudge(), **faults)
    assert judge.when is When.ACTION
    assert (await judge.score(evidence(["a+4 3=7"], 0))).score == right
    assert (await judge.score(evidence(["a+4 3=8"], 0))).score == wrong


async def test_flips_are_as_frequent_as_said_the_same_for_the_same_action_and_cost_what_theory_says():
    judge = NoisyJudge(RubricRelayJudge(), false_alarm=0.2, miss=0.2)
    right = [float(number % 5 != 0) for number in range(4000)]
    asked = [evidence(["a+4 3=7" if ok else "a+4 3=8"], 0, number=number) for number, ok in enumerate(right)]
    scores = [(await judge.score(one)).score for one in asked]
    assert scores == [(await judge.score(one)).score for one in reversed(asked)][::-1]
    flipped = statistics.fmean((score > 5) != bool(ok) for score, ok in zip(scores, right, strict=True))
    assert abs(flipped - 0.2) < 0.03
    assert abs(rho2(scores, right) - rho2_flips(0.8, 0.2)) < 0.05
    assert judge.id != NoisyJudge(RubricRelayJudge(), false_alarm=0.3, miss=0.2).id


async def test_process_and_outcome_by_weight():
    judge = MixedJudge(RubricRelayJudge(), weight=0.75)
    assert judge.when is When.EPISODE
    assert (await judge.score(evidence(["a+4 3=7"], 0, 0.0))).score == 7.5
    assert (await judge.score(evidence(["a+4 3=8"], 0, 1.0))).score == 2.5
    none = await judge.score(evidence(["a+4 3=7"], 0))
    assert (none.score, none.reason) == (None, "the episode has no grade")


async def test_the_life_of_the_judge_inside():
    class Paid(BaseJudge):
        id, fatal, told = "paid", None, ()

        async def announce(self, actions: int) -> None:
            self.told += (actions,)

        async def close(self) -> None:
            self.told += ("closed",)

        async def score(self, evidence: Evidence) -> Verdict:
            self.fatal = "out of money"
            return Verdict(None, "no", self.id)

    inner = Paid()
    judge = NoisyJudge(inner, miss=1.0)
    await judge.announce(7)
    verdict = await judge.score(evidence(["x"], 0))
    await judge.close()
    assert (verdict.score, judge.fatal, inner.told) == (None, "out of money", (7, "closed"))
