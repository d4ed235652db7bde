"""Literal debates: which answers are kept, with what weight."""

from __future__ import annotations

import pytest

from mappa.epoch import Collected
from mappa.errors import ConfigError
from mappa.select.consensus import Consensus, chains
from mappa.select.graded import Graded
from mappa.task.arithmetic import Arithmetic
from mappa.types import BASE, Action, Episode, StopReason, Task
from tests.conftest import make_action

TASKS = Arithmetic()


def made(*episodes: Episode, ranks: int = 1) -> Collected:
    return Collected(episodes, {}, 0, TASKS, None, (), lambda value: [value] * ranks)


def said(index: int, seat: str, answer: object, **more: object) -> Action:
    text = "no idea" if answer is None else rf"so \boxed{{{answer}}}"
    agent = BASE if seat == "summariser" else seat
    return make_action(agent, name=f"e/{index}", seat=seat, text=text, **more)


def debate(generators: list[object], critics: list[object], answer: object, key: str | None = "7") -> Episode:
    actions = [said(k, f"generator_{k + 1}", a) for k, a in enumerate(generators)]
    for k, a in enumerate(critics):
        actions.append(said(len(actions), "summariser", 7))
        actions.append(said(len(actions), f"critic_{k + 1}", a))
    text = None if answer is None else rf"\boxed{{{answer}}}"
    return Episode("e", Task("t", "q", key), 0, tuple(actions), text, None)


def kept(select: Consensus, *episodes: Episode) -> dict[str, float]:
    return {choice.action.seat: choice.weight for (choice,) in select.choose(made(*episodes), {}).groups}


def test_generators_learn_agreeing_answers_critics_corrections_and_confirmations():
    episode = debate([7, 7, 9], [7, 9, 7], answer=7)
    half = {"generator_1": 1.0, "generator_2": 1.0, "critic_1": 1.0, "critic_3": 1.0}
    assert kept(Consensus(), episode) == half
    weighted = kept(Consensus(w=0.8), episode)
    assert weighted["critic_1"] == pytest.approx(0.4)  # D+: 2 (1 - w)
    assert weighted["critic_3"] == pytest.approx(1.6)  # D-: 2 w
    assert kept(Consensus(w=1.0), episode) == {"generator_1": 1.0, "generator_2": 1.0, "critic_3": 2.0}


def test_a_three_way_tie_has_no_majority_at_two_votes():
    episode = debate([1, 2, 3], [1, 2, 3], answer=2)
    assert kept(Consensus(min_votes=2), episode) == {}
    assert kept(Consensus(min_votes=1), episode) == {"generator_2": 1.0, "critic_2": 1.0}


def test_unreadable_answers_count_for_nobody():
    assert kept(Consensus(min_votes=2), debate([None, None, 7], [None, None, 7], answer=7)) == {}
    assert kept(Consensus(), debate([None, None, None], [None, None, None], answer=None)) == {}
    assert kept(Consensus(), debate([None, 7, 7], [7, None, 7], answer=7)) == {
        "generator_2": 1.0,
        "generator_3": 1.0,
        "critic_1": 1.0,
        "critic_3": 1.0,
    }


def test_truncated_answers_are_never_learned():
    episode = debate([7, 7], [7, 7], answer=7)
    cut = tuple(
        said(0, "generator_1", 7, stop=StopReason.LENGTH) if a.seat == "generator_1" else a for a in episode.actions
    )
    assert set(kept(Consensus(), Episode("e", episode.task, 0, cut, episode.answer, None))) == {
        "generator_2",
        "critic_1",
        "critic_2",
    }


def test_the_vote_alone_and_generators_that_revise():
    assert kept(Consensus(), debate([7, 7, 9], [], answer=7)) == {"generator_1": 1.0, "generator_2": 1.0}
    actions = (
        said(0, "generator_1", 7),
        said(1, "generator_2", 9),
        said(2, "generator_1", 7),
        said(3, "generator_2", 7),
    )
    chosen = Consensus().choose(made(Episode("e", Task("t", "q"), 0, actions, r"\boxed{7}", None)), {})
    assert [choice.action.id for (choice,) in chosen.groups] == ["e/0"], "a generator learns its first answers alone"


def test_all_turns_of_a_first_act_are_learned_and_the_last_one_votes():
    turns = (said(0, "generator_1", None), said(1, "generator_1", 7, turn=1), said(2, "critic_1", 7))
    episode = Episode("e", Task("t", "q"), 0, turns, r"\boxed{7}", None)
    assert [[len(act) for act in chain] for chain in chains(episode)] == [[2, 1]]
    assert [c.action.id for (c,) in Consensus().choose(made(episode), {}).groups] == ["e/0", "e/1", "e/2"]


def test_purity_is_told_but_never_used():
    metrics = Consensus().choose(made(debate([7, 7, 9], [7, 9, 7], 7, key="8")), {}).metrics
    assert metrics["generator_1/kept"] == 1
    assert metrics["generator_1/purity"] == 0.0, "all agree on a wrong answer, and it is kept all the same"
    assert metrics["select/kept_episodes"] == 1.0
    assert "generator_1/purity" not in Consensus().choose(made(debate([7], [], 7, key=None)), {}).metrics
    both = Consensus().choose(made(debate([7, 7, 9], [7, 9, 7], 7), ranks=2), {}).metrics
    assert both["generator_1/kept"] == 2, "numbers are of all ranks"


def test_a_team_without_generators_is_refused():
    with pytest.raises(ConfigError, match=r"select=consensus needs a debate .*; this team has: solver"):
        Consensus().check({"solver": "solver"}, TASKS)
    Consensus().check({"generator_1": "generator_1"}, TASKS)


def test_a_summariser_that_would_learn_is_refused():
    Consensus().check({"generator_1": "agent", "summariser": BASE}, TASKS)
    with pytest.raises(ConfigError, match=r"set team\.summariser\.adapter=base"):
        Consensus().check({"generator_1": "agent", "summariser": "agent"}, TASKS)


def test_graded_takes_the_first_right_answer_and_a_hinted_one_only_without_it():
    plain, hint = said(0, "solver", 8), said(1, "solver", 7, plain_ids=(3, 4))
    episode = Episode("e", Task("t", "q", "7"), 0, (plain, hint), plain.text, None)
    chosen = Graded().choose(made(episode), {})
    assert [choice.action.id for (choice,) in chosen.groups] == ["e/1"]
    assert chosen.metrics["select/hinted"] == 1.0
    right = Episode("e", Task("t", "q", "7"), 0, (said(0, "solver", 7), hint), plain.text, None)
    assert [choice.action.id for (choice,) in Graded().choose(made(right), {}).groups] == ["e/0"]
    wrong = Episode("e", Task("t", "q", "9"), 0, (plain, hint), plain.text, None)
    assert Graded().choose(made(wrong), {}).groups == []


def test_graded_needs_a_key():
    class Keyless(Arithmetic):
        def train(self):
            return [Task("t", "q")]

    with pytest.raises(ConfigError, match=r"select=graded needs tasks with answers"):
        Graded().check({"solver": "solver"}, Keyless())
