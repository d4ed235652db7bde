"""Rewards of whole episodes against numbers by hand."""

from __future__ import annotations

import pytest
import torch

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.reward.base import reward_metrics
from mappa.reward.grade import GradeReward
from mappa.reward.optima import Optima
from mappa.reward.verdicts import VerdictsReward
from mappa.reward.weighted import Weighted
from mappa.types import BASE, Episode, Grade, Task, Verdict
from tests.conftest import make_action


class Base:
    """The frozen base finds each message as likely as it is told to."""

    def __init__(self, losses: dict[str, float]) -> None:
        self._losses = losses
        self.asked: list[tuple[int, ...]] = []

    def base(self, samples):
        self.asked += [sample.action.context_ids for sample in samples]
        return [torch.full((len(s.action.completion_ids),), -self._losses[s.action.id]) for s in samples]


def episode(name: str, *messages: tuple[str, int], score: float = 1.0, task: str = "t", **more: object) -> Episode:
    actions = tuple(
        make_action("agent", completion=count, name=f"{name}/{i}", text=text)
        for i, (text, count) in enumerate(messages)
    )
    return Episode(name, Task(task, "q"), 0, actions, "", Grade(score), **more)


def made(*episodes: Episode, losses: dict[str, float] | None = None, verdicts=None) -> Collected:
    known = {a.id: 1.0 for e in episodes for a in e.actions} | (losses or {})
    return Collected(episodes, verdicts or {}, 0, None, Base(known), (1, 2), lambda value: [value])


def test_optima_is_task_minus_tokens_plus_readability():
    short = episode("a", ("one", 10), ("two", 20), score=1.0)
    long = episode("b", ("three", 60), score=0.0)
    losses = {"a/0": 1.0, "a/1": 2.0, "b/0": 0.5}
    ratings = Optima(tokens=0.6, loss=0.1, least_tokens=0).rate(made(short, long, losses=losses))
    assert ratings["a"].total == pytest.approx(1 - 0.3 + 0.05)
    assert ratings["b"].total == pytest.approx(0 - 0.6 + 0.2)
    assert ratings["a"].parts == pytest.approx({"task": 1, "tokens": -0.3, "loss": 0.05, "spent": 30, "lm_loss": 2.0})


def test_the_longest_is_that_of_the_task_or_a_percentile_of_all():
    one, other = episode("a", ("x", 10), task="s"), episode("b", ("y", 40), task="t")
    ratings = Optima(tokens=1.0, loss=0.0, least_tokens=0).rate(made(one, other))
    assert [ratings[k].parts["tokens"] for k in "ab"] == [-1.0, -1.0]
    hundred = [episode(f"{n:03d}", ("x", n), task=str(n)) for n in range(1, 101)]
    ratings = Optima(tokens=1.0, loss=0.0, percentile=85, least_tokens=0).rate(made(*hundred))
    assert ratings["100"].parts["tokens"] == pytest.approx(-100 / 86.15)


@pytest.mark.parametrize(
    ("messages", "loss", "tokens"),
    [
        ([("same", 30), ("same", 30)], 0.0, -1.0),
        ([("", 1), ("more", 50)], -1.0, -1.0),
        ([("x", 90), ("y", 20)], -1.0, -1.0),
        ([("x", 20), ("y", 20)], 0.5, -1.0),
        ([("x", 20), ("y", 21)], 0.5, -1.0),
    ],
    ids=["said twice", "empty", "too long", "too short", "long enough"],
)
def test_optimas_guards(messages: list[tuple[str, int]], loss: float, tokens: float):
    the_losses = {"a/0": 2.0, "a/1": 1.0}
    rating = Optima(tokens=1.0, loss=1.0, longest=80)
    assert rating.rate(made(episode("a", *messages), losses=the_losses))["a"].parts["loss"] == loss
    assert rating.rate(made(episode("a", *messages), losses=the_losses))["a"].parts["tokens"] == tokens


def test_a_message_is_judged_alone_and_a_shared_one_once():
    parent = episode("a", ("x", 30), ("y", 30))
    branch = Episode(
        "b", parent.task, 0, (*parent.actions[:1], make_action("agent", name="b/1", text="z")), "", Grade(1)
    )
    branch = Episode(**{**vars(branch), "parent": "a", "shared": 1})
    collected = made(parent, branch)
    ratings = Optima(least_tokens=0).rate(collected)
    assert collected.policies.asked == [(1, 2)] * 3
    assert ratings["b"].parts["spent"] == 33, "a branch costs what it replays, too"


def test_the_frozen_bases_messages_cost_nothing_and_an_error_has_no_rating():
    silent = make_action(BASE, completion=500, name="a/1", text="summary")
    kept = episode("a", ("x", 10))
    with_base = Episode(**{**vars(kept), "actions": (*kept.actions, silent)})
    broken = episode("b", ("x", 10), error="too long")
    ratings = Optima(least_tokens=0).rate(made(with_base, broken))
    assert set(ratings) == {"a"}
    assert ratings["a"].parts["spent"] == 10


def test_weighted_success_frugality_and_form():
    messages = [
        ('{"thought": 1, "answer": 2}', 1000),
        ("no", 500),
        ('{"answer": 2}', 500),
        ('{"thought": 0, "answer": 1}', 10),
    ]
    reward = Weighted(0.5, 0.3, 0.2, max_tokens=15000, pattern="json:answer")
    (rating,) = reward.rate(made(episode("a", *messages))).values()
    assert rating.total == pytest.approx(0.5 + 0.3 * (1 - 2010 / 15000) + 0.2 * 0.75)
    strict = Weighted(0, 0, 1, pattern="json:answer,thought").rate(made(episode("a", *messages)))
    assert strict["a"].total == 0.5
    assert Weighted(0, 0, 1, pattern=r"no|yes").rate(made(episode("a", *messages)))["a"].total == 0.25
    assert Weighted(0, 1, 0, max_tokens=5).rate(made(episode("a", ("x", 10))))["a"].total == 0.0
    with pytest.raises(ConfigError, match="is no regular expression"):
        Weighted(pattern="(")


def test_grade_and_verdicts():
    one, other = episode("a", ("x", 1), ("y", 1), score=0.5), episode("b", ("x", 1))
    assert GradeReward().rate(made(one))["a"].total == 0.5
    verdicts = {"a/0": Verdict(8.0), "a/1": Verdict(None)}
    ratings = VerdictsReward().rate(made(one, other, verdicts=verdicts))
    assert {key: rating.total for key, rating in ratings.items()} == {"a": 0.8}, "unjudged is unrated"
    assert reward_metrics(ratings, made(one)) == {"reward/total": 0.8, "reward/verdicts": 0.8}
