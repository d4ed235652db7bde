"""Dialogues on a real tokenizer, and a real kernel for the executor; only the model is scripted."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from hydra.utils import instantiate

from mappa.config import ASSETS, compose
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import ConfigError
from mappa.play.agent import SHARED
from mappa.play.rollout import acts_of, adapters_of
from mappa.play.scene import Scene
from mappa.policy.model import Model
from mappa.task.math import MathTask
from mappa.task.relay import Relay
from mappa.team.dialogue import Dialogue
from mappa.types import StopReason, Task
from sandbox import KernelPool

CHAT = Model(str(ASSETS / "tiny")).chat()
VOTE = Relay().vote
SEAT = {"role": "r", "prompt": "{{view}} {{heard}}", "max_tokens": 60}
TASK = Task("t", "a + b?", "5", metadata={"views": {"alice": "a=2", "bob": "b=3"}})


class Lines(BaseEngine):
    """Its lines in turn, whoever speaks."""

    context_length = 4096

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    async def generate(self, agent: str, prompt_ids, sampling: Sampling) -> Completion:
        ids = (*CHAT.tokenizer.encode(self._lines.pop(0), add_special_tokens=False), CHAT.eos_id)
        return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)


@pytest.fixture
async def scene_of():
    pool = KernelPool(warm=0, max_kernels=1, preload=())
    await pool.start()
    async with AsyncExitStack() as stack:

        def make(*lines: str, task: Task = TASK, vote=VOTE, epoch: int | None = 0, seed: int = 0) -> Scene:
            async def ignore(task, actions):
                pass

            return Scene("e", task, seed, Lines(*lines), CHAT, pool, 1.0, 1.0, 100, ignore, vote, epoch, (), stack)

        yield make
    await pool.close()


def seats(scene: Scene) -> list[str]:
    return [action.seat for action in scene.actions]


async def test_it_ends_when_two_messages_in_a_row_give_the_same_answer(scene_of):
    team = Dialogue({"alice": SEAT, "bob": SEAT})
    scene = scene_of("a is 2", "#4", "no, #5", "#5", "never said")
    assert await team.play(scene) == "#5"
    assert seats(scene) == ["alice", "bob", "alice", "bob"]
    shown = [[m.content for m in action.messages if m.role != "system"] for action in scene.actions]
    assert shown[0] == ["a=2 "]
    assert shown[1] == ["b=3 a is 2"]
    assert shown[3] == ["b=3 a is 2", "#4", "no, #5"], "each goes on in its own conversation"
    last = scene.actions[1]
    context = (*last.prompt_ids, *last.completion_ids)
    assert scene.actions[3].prompt_ids[: len(context)] == context


async def test_or_after_all_rounds_with_the_last_answer(scene_of):
    team = Dialogue({"alice": SEAT, "bob": SEAT}, rounds=3)
    assert await team.play(scene_of("#1", "#2", "hm")) == "#2"
    first = Dialogue({"alice": SEAT, "bob": SEAT}, rounds=3, decides="first")
    assert await first.play(scene_of("#1", "#2", "hm")) == "#1"
    assert await team.play(scene_of("x", "y", "z")) == "z"
    assert acts_of(team) == {"alice": 2, "bob": 1}


def team_of(name: str) -> Dialogue:
    return instantiate(compose([], f"team/{name}").team, _convert_="all")


MATH = {"task": Task("m", "1 + 1?", "2"), "vote": MathTask("m").vote}
BOX = r"I say \boxed{%s}."


async def test_the_critic_accepts_by_repeating_the_proposal(scene_of):
    team = team_of("proposer_critic")
    assert adapters_of(team) == [SHARED]
    scene = scene_of(BOX % 3, "The sum is off by one, look again at it.", BOX % 2, BOX % 2, **MATH)
    assert await team.play(scene) == BOX % 2
    assert len(scene.actions) == 4
    refused = ["No, that is not what I find when I do it."]
    lines = [line for k in range(5) for line in (BOX % k, *refused)]
    scene = scene_of(*lines, **MATH)
    assert await team.play(scene) == BOX % 4, "at the limit the latest proposal counts"
    assert len(scene.actions) == 10


async def test_the_planner_states_the_answer_after_the_executor_ran_code(scene_of):
    team = team_of("planner_executor")
    lines = [
        "Compute the sum of one and one with a program.",
        "```python\nprint(1 + 1)\n```",
        "It printed two, I think.",
        BOX % 2,
    ]
    scene = scene_of(*lines, **MATH)
    assert await team.play(scene) == BOX % 2
    assert seats(scene) == ["planner", "executor", "executor", "planner"]
    assert scene.actions[1].tool.text == "2"


async def test_a_manner_is_told_in_the_first_epochs_of_training_and_not_learned(scene_of):
    team = Dialogue({"alice": SEAT, "bob": SEAT}, manners=["Be brief.", "Use JSON."], manner_epochs=1)
    scene = scene_of("a is 2", "#5", "#5")
    await team.play(scene)
    told = scene.actions[0].messages[-1].content.partition("\n\n")[2]
    assert told in ("Be brief.", "Use JSON.")
    assert all(action.plain_ids is not None for action in scene.actions)
    assert told not in CHAT.decode(scene.actions[2].plain_ids)
    drawn = set()
    for seed in range(20):
        scene = scene_of("a is 2", "#5", "#5", seed=seed)
        await team.play(scene)
        drawn.add(scene.actions[0].messages[-1].content.partition("\n\n")[2])
    assert drawn == {"Be brief.", "Use JSON."}
    for epoch in (1, None):
        scene = scene_of("a is 2", "#5", "#5", epoch=epoch)
        await team.play(scene)
        assert all(action.plain_ids is None for action in scene.actions)


def test_views_that_are_missing_are_named_before_anything_is_played():
    team = Dialogue({"alice": SEAT, "bob": SEAT})
    team.check_tasks(Relay(train_size=3).train())
    with pytest.raises(ConfigError, match=r"seat 'alice' is shown {{view}}, but 1 of 2 tasks have none for it"):
        team.check_tasks([TASK, MATH["task"]])
    with pytest.raises(ConfigError, match=r"team.agents names 1 seats; a dialogue has two"):
        Dialogue({"alice": SEAT})


def test_relay_takes_an_exchange():
    for kind in ("sum", "chain"):
        task = Relay(train_size=50, validation_size=5, kind=kind)
        names = [t.id for t in (*task.train(), *task.validation()[task.name])]
        assert len(set(names)) == 55
        for problem in task.train():
            views, facts = problem.metadata["views"], problem.metadata["facts"]
            first, second = problem.question.removesuffix("?").split(" + ")
            assert views["alice"].startswith(f"{first} + {second}?")
            assert views["bob"].startswith(f"{second} + {first}?")
            assert f"{first}={facts[first]}" in views["alice"]
            assert f"{first}=" not in views["bob"].partition("?")[2]
            if kind == "chain":
                (other,) = [word[2:] for word in views["bob"].split() if word.startswith(f"{second}=")]
                assert f"{other}={facts[other]}" in views["alice"]
                second = other
            assert int(problem.answer) == facts[first] + facts[second]
            assert task.grade(problem, f"so #{problem.answer}", None).score == 1.0
            assert task.grade(problem, problem.answer, None).score == 0.0
