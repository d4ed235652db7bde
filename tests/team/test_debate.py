"""Debates, votes and rationales on a real tokenizer; only the model is scripted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from mappa.config import ASSETS
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import ConfigError
from mappa.play.agent import SHARED
from mappa.play.rollout import acts_of, adapters_of
from mappa.play.scene import Scene
from mappa.policy.model import Model
from mappa.task.arithmetic import Arithmetic
from mappa.team.chain import Chain
from mappa.team.debate import Debate, majority
from mappa.team.rationalise import Rationalise
from mappa.types import BASE, StopReason, Task

CHAT = Model(str(ASSETS / "tiny")).chat()
VOTE = Arithmetic().vote
GENERATOR = {"role": "g", "system": "Compute.", "prompt": "{{task}}", "max_tokens": 20}
CRITIC = {"role": "c", "max_tokens": 20}
SUMMARISER = {"role": "s", "prompt": "{{others}}", "max_tokens": 20, "adapter": BASE}
REPLY = "Others: {{heard}}"


class Seats(BaseEngine):
    """Says what its adapter's next line is, and remembers what each was shown."""

    context_length = 1024

    def __init__(self, **lines: list[str]) -> None:
        self.lines = {name: list(said) for name, said in lines.items()}
        self.shown: list[tuple[str, str]] = []

    async def generate(self, agent: str, prompt_ids, sampling: Sampling) -> Completion:
        self.shown.append((agent, CHAT.tokenizer.decode(list(prompt_ids))))
        ids = (*CHAT.tokenizer.encode(self.lines[agent].pop(0), add_special_tokens=False), CHAT.eos_id)
        return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)


@pytest.fixture
async def scene_of():
    async with AsyncExitStack() as stack:

        def make(engine: Seats, seed: int = 0, training: bool = True, answer: str = "7") -> Scene:
            async def ignore(task, actions):
                pass

            task = Task("t", "Compute 3 + 4.", answer)
            return Scene(
                "e", task, seed, engine, CHAT, None, 1.0, 1.0, 100, ignore, VOTE, 0 if training else None, (), stack
            )

        yield make


def box(answer: int) -> str:
    return rf"\boxed{{{answer}}}"


async def test_critics_go_on_from_their_generators_tokens_and_hear_a_summary_of_the_others(scene_of):
    engine = Seats(
        generator_1=[box(7)],
        generator_2=[box(8)],
        generator_3=[box(7)],
        critic_1=[box(7)],
        critic_2=[box(7)],
        critic_3=[box(9)],
        base=["8 and 7.", "7 and 7.", "7 and 8."],
    )
    team = Debate(3, 2, GENERATOR, CRITIC, SUMMARISER, REPLY)
    scene = scene_of(engine)
    assert await team.play(scene) == box(7)
    assert [a.seat for a in scene.actions] == [
        *("generator_1", "generator_2", "generator_3"),
        *("summariser", "critic_1", "summariser", "critic_2", "summariser", "critic_3"),
    ]
    assert [a.agent for a in scene.actions if a.seat == "summariser"] == [BASE] * 3
    first = scene.actions[0]
    critic = next(a for a in scene.actions if a.seat == "critic_1")
    said = (*first.prompt_ids, *first.completion_ids)
    assert critic.prompt_ids[: len(said)] == said
    added = CHAT.tokenizer.decode(list(critic.prompt_ids[len(said) :]))
    assert added == "\n<|im_start|>user\nOthers: 8 and 7.<|im_end|>\n<|im_start|>assistant\n"
    summarised = [shown for agent, shown in engine.shown if agent == BASE]
    assert f"user\n{box(8)}\n{box(7)}<|im_end|>" in summarised[0], "the others' answers, not its own"
    assert adapters_of(team) == [f"{kind}_{k}" for kind in ("generator", "critic") for k in (1, 2, 3)]


async def test_a_third_round_goes_on_from_the_critics_last_answer(scene_of):
    lines = {f"generator_{k}": [box(k)] for k in (1, 2)} | {f"critic_{k}": [box(5), box(6)] for k in (1, 2)}
    scene = scene_of(Seats(**lines))
    assert await Debate(2, 3, GENERATOR, CRITIC, None, REPLY).play(scene) == box(6)
    second, third = [a for a in scene.actions if a.seat == "critic_1"]
    assert third.prompt_ids[: len(second.prompt_ids)] == second.prompt_ids
    assert "Others: \\boxed{5}" in third.messages[-1].content


async def test_without_critics_generators_revise_without_a_summariser_others_are_quoted(scene_of):
    scene = scene_of(Seats(generator_1=[box(1), box(2)], generator_2=[box(3), box(2)]))
    team = Debate(2, 2, GENERATOR, None, None, REPLY)
    assert await team.play(scene) == box(2)
    assert scene.actions[2].messages[-1].content == f"Others: {box(3)}"
    assert acts_of(team) == {"generator_1": 2, "generator_2": 2}


async def test_one_round_is_the_vote_alone(scene_of):
    scene = scene_of(Seats(generator_1=["no idea"], generator_2=[box(3)], generator_3=[box(3)]))
    team = Debate(3, 1, GENERATOR, CRITIC, SUMMARISER, REPLY)
    assert await team.play(scene) == box(3)
    assert list(team.agents) == ["generator_1", "generator_2", "generator_3"]


async def test_a_critic_with_a_prompt_starts_anew(scene_of):
    lines = {f"generator_{k}": [box(k)] for k in (1, 2)} | {f"critic_{k}": [box(2)] for k in (1, 2)}
    scene = scene_of(Seats(**lines))
    critic = CRITIC | {"system": "Check.", "prompt": "{{task}} mine {{mine}} others {{heard}} {{seat}}"}
    await Debate(2, 2, GENERATOR, critic, None, REPLY).play(scene)
    asked = scene.actions[2].messages
    assert [m.content for m in asked] == ["Check.", f"Compute 3 + 4. mine {box(1)} others {box(2)} critic_1"]


def test_shared_seats_have_one_adapter_and_the_base_stays_the_base():
    team = Debate(5, 2, GENERATOR, CRITIC, SUMMARISER, REPLY, shared=True)
    assert adapters_of(team) == [SHARED]
    assert team.agents["summariser"].adapter == BASE
    assert acts_of(team)["summariser"] == 5
    chain = Chain({"a": GENERATOR, "b": GENERATOR | {"adapter": "own"}, "c": GENERATOR}, shared=True)
    assert adapters_of(chain) == [SHARED, "own"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Debate(3, 2, {"role": "g", "max_tokens": 5}), "team.generator.prompt is missing"),
        (lambda: Debate(3, 2, GENERATOR | {"prompt": "{{heard}}"}), "unknown placeholder {{heard}}"),
        (lambda: Debate(3, 2, GENERATOR, CRITIC | {"tempersture": 1}), "unknown key 'tempersture'; a seat takes: "),
        (lambda: Debate(3, 2, GENERATOR, {"role": "c"}), "agent 'critic_1': 'max_tokens' is missing"),
        (lambda: Chain({"base": GENERATOR}), "no seat may be called 'base'"),
        (lambda: Chain({"a": {"role": "r", "max_tokens": 3}}), "agent 'a' has no prompt"),
        (lambda: adapters_of(Chain({"a": GENERATOR | {"adapter": BASE}})), "nobody can learn"),
    ],
)
def test_bad_teams_are_one_line(make: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message):
        make()


async def test_the_majority_and_its_ties(scene_of):
    texts = [f"first {box(1)}", f"second {box(2)}", f"third {box(2)}", "none"]
    assert majority(texts, scene_of(Seats())) == texts[1]
    assert majority(["none", "nothing"], scene_of(Seats())) == "nothing"
    assert majority(["none", "none", box(4)], scene_of(Seats())) == box(4), "no answer never wins"
    tied = [box(1), box(2)]
    chosen = [majority(tied, scene_of(Seats(), seed=seed)) for seed in range(1000)]
    assert chosen == [majority(tied, scene_of(Seats(), seed=seed)) for seed in range(1000)]
    assert abs(chosen.count(box(1)) / 1000 - 0.5) < 0.05


STAR = Rationalise(GENERATOR, "(The answer is {{answer}}.)")


async def test_a_wrong_answer_is_rationalised_under_a_hint_that_is_not_learned(scene_of):
    engine = Seats(solver=["It is \\boxed{8}", "It is \\boxed{7}"])
    scene = scene_of(engine)
    assert await STAR.play(scene) == "It is \\boxed{8}", "no reported accuracy sees the hint"
    plain, hinted = scene.actions
    assert "(The answer is 7.)" in engine.shown[1][1]
    assert hinted.context_ids == plain.prompt_ids
    assert hinted.prompt_ids != plain.prompt_ids
    assert plain.plain_ids is None


@pytest.mark.parametrize(("training", "said"), [(False, 8), (True, 7)])
async def test_no_hint_on_held_out_tasks_or_where_it_was_right(training: bool, said: int, scene_of):
    scene = scene_of(Seats(solver=[box(said)]), training=training)
    await STAR.play(scene)
    assert len(scene.actions) == 1
