"""Trees of attempts: literal ones, and invariants over random dialogues that a real team plays."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from itertools import combinations

import pytest

from mappa.config import ASSETS
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.epoch import Collected
from mappa.errors import EngineError
from mappa.play.rollout import Job, Rollout, units
from mappa.play.scene import Scene
from mappa.policy.model import Model
from mappa.reward.base import Rating
from mappa.search.base import distance, grow, nodes
from mappa.search.decisions import Decisions
from mappa.search.full import Full
from mappa.search.tree import Tree
from mappa.seed import stable_seed
from mappa.select.siblings import Siblings
from mappa.task.relay import Relay
from mappa.team.chain import Chain
from mappa.team.dialogue import Dialogue
from mappa.types import Episode, Grade, StopReason, Task
from sandbox import KernelPool
from tests.conftest import make_action

CHAT = Model(str(ASSETS / "tiny")).chat()
SEAT = {"role": "r", "prompt": "{{view}}\n{{heard}}", "max_tokens": 40}
RELAY = Relay(train_size=4, validation_size=1)


class Chatter(BaseEngine):
    """Says random words, or a marked number, by the seed of the request alone."""

    context_length = 1024

    async def generate(self, agent: str, prompt_ids, sampling: Sampling) -> Completion:
        rng = random.Random(sampling.seed)
        words = ["".join(rng.choices("abc", k=3)) for _ in range(rng.randint(1, 4))]
        text = " ".join([*words, *(["#" + str(rng.randint(0, 2))] if rng.random() < 0.5 else [])])
        ids = (*CHAT.tokenizer.encode(text, add_special_tokens=False), CHAT.eos_id)
        return Completion(ids, (-1.0,) * len(ids), StopReason.STOP, 0)


def jobs(attempts: int, tasks: int = 2) -> list[Job]:
    return [
        Job(f"{t}-{k:03d}", task, stable_seed("job", t, k), epoch=0)
        for t, task in enumerate(RELAY.train()[:tasks])
        for k in range(attempts)
    ]


async def play(search, team=None, todo=None) -> list[Episode]:
    team = team or Dialogue({"alice": SEAT, "bob": SEAT}, rounds=6)
    rollout = Rollout(team, RELAY, Chatter(), CHAT, None, concurrency=2, tool_tokens=50)
    return await rollout.collect(units(todo or jobs(search.attempts), search), "train", [], 1.0, 1.0, search)


@pytest.mark.parametrize(
    ("a", "b", "d"), [("", "", 0), ("abc", "", 1), ("kitten", "sitting", 3 / 7), ("flaw", "lawn", 0.5)]
)
def test_relative_edit_distance(a: str, b: str, d: float):
    assert distance(a, b) == distance(b, a) == pytest.approx(d)


async def test_a_tree_of_turns_keeps_its_invariants():
    tree = Tree(groups=6, rollouts=3, merge=0.1, novelty=0.25)
    episodes = await play(tree)
    assert len(episodes) == 2 * 18
    assert [e.id for e in episodes] == [job.id for job in jobs(18)]
    again = await play(tree)
    assert [(e.actions, e.parent) for e in episodes] == [(e.actions, e.parent) for e in again], "tasks and seeds decide"
    by_id = {episode.id: episode for episode in episodes}
    own = [action.id for episode in episodes for action in episode.own]
    assert len(own) == len(set(own)), "a new action is new once"
    branched = [episode for episode in episodes if episode.parent is not None]
    assert branched, "or the next lines could not fail"
    for episode in branched:
        parent = by_id[episode.parent]
        assert parent.task == episode.task
        assert episode.actions[: episode.shared] == parent.actions[: episode.shared]
        assert all(action.id.startswith(f"{episode.id}/") for action in episode.own)
    for task in RELAY.train()[:2]:
        made = [episode for episode in episodes if episode.task == task]
        root = grow(made, 0.1)
        for node in [root, *nodes(root)]:
            texts = [child.action.text for child in node.children]
            assert all(distance(a, b) >= 0.1 for a, b in combinations(texts, 2)), "siblings that are near are one"
            grades = [episode.grade.score for episode in node.episodes]
            assert node.value(lambda e: e.grade.score) == pytest.approx(sum(grades) / len(grades))
        left = {e.actions[e.shared - 1].text for e in made if e.parent is not None}
        assert all(distance(a, b) >= 0.25 for a, b in combinations(left, 2)), "expanded messages are novel"


def chain_of(*texts: str, name: str = "e", score: float = 1.0, shared: tuple = ()) -> Episode:
    actions = (*shared, *(make_action("agent", name=f"{name}/{len(shared) + i}", text=t) for i, t in enumerate(texts)))
    return Episode(name, Task("t", "q"), 0, actions, "", Grade(score), shared=len(shared))


def test_candidates_are_neither_leaves_nor_last_but_one():
    long = chain_of("first words", "second part", "third thing", "fourth end")
    tree = Tree(groups=2, rollouts=1)
    episode, count = tree.branch(long.task, [long], 0)
    assert (episode.id, count) in {("e", 1), ("e", 2)}
    assert tree.branch(long.task, [chain_of("only", "two")], 0) is None
    assert tree.branch(long.task, [], 0) is None
    drawn = {tree.branch(long.task, [long], seed)[1] for seed in range(50)}
    assert drawn == {1, 2}
    assert tree.branch(long.task, [long], 7) == tree.branch(long.task, [long], 7)


def test_full_tries_every_action_of_a_chain():
    full, made = Full(width=2, depth=3), []
    shared = []
    for number in range(full.attempts):
        branch = full.branch(Task("t", "q"), made, 0)
        parent, count = branch or (None, 0)
        kept = parent.actions[:count] if parent else ()
        shared.append((parent.id if parent else None, count))
        made.append(chain_of(*"xyz"[count:], name=str(number), shared=kept))
    assert shared == [(None, 0), ("0", 2), ("0", 1), ("2", 2), (None, 0), ("4", 2), ("4", 1), ("6", 2)]

    assert Full(width=3, depth=3).attempts == 27


async def test_full_search_over_a_real_chain_shares_prefixes_exactly():
    prompts = {"generator": "{{task}}", "verifier": "{{generator}}", "refiner": "{{generator}} {{verifier}}"}
    team = Chain({name: SEAT | {"prompt": prompt} for name, prompt in prompts.items()})
    full = Full(width=2, depth=3)
    episodes = await play(full, team, jobs(full.attempts, tasks=1))
    assert [len(e.own) for e in episodes] == [3, 1, 2, 1, 3, 1, 2, 1]
    assert len({action.id for e in episodes for action in e.actions}) == 2 + 4 + 8


async def test_every_decision_of_the_trunk_is_tried_again():
    seats = ("one", "two", "three")
    team = Chain({name: {"role": "r", "prompt": "{{task}} " + name, "max_tokens": 40} for name in seats})
    search = Decisions(depth=3, others=2)
    trunk, *others = await play(search, team, jobs(search.attempts, tasks=1))
    assert [len(e.own) for e in others] == [3, 3, 2, 2, 1, 1]
    assert all(e.actions[: e.shared] == trunk.actions[: e.shared] for e in others)
    for depth in range(3):
        alternatives = [e.actions[depth] for e in (trunk, *others) if e is trunk or e.shared == depth]
        assert len({action.prompt_ids for action in alternatives}) == 1
        assert len({action.id for action in alternatives}) == 3


async def test_replay_refuses_another_context_and_names_the_action():
    async with AsyncExitStack() as stack:

        async def ignore(task, actions):
            pass

        recorded = make_action("alice", name="parent/0", seat="alice")
        task = RELAY.train()[0]
        scene = Scene("e", task, 0, Chatter(), CHAT, None, 1.0, 1.0, 9, ignore, str, 0, (recorded,), stack)
        with pytest.raises(EngineError, match="action parent/0 cannot be replayed: alice is asked something else"):
            await Dialogue({"alice": SEAT, "bob": SEAT}).play(scene)


async def test_a_replayed_action_gives_the_kernel_its_state_back_and_is_recorded_once():
    """The executor's second turn is tried anew: it still sees what its first turn defined."""
    lines = iter(
        ["```python\nx = 20 + 1\nprint('set')\n```", "```python\nprint(x)\n```", "```python\nprint(x * 2)\n```"]
    )
    told: list[str] = []

    class Scripted(BaseEngine):
        context_length = 1024

        async def generate(self, agent, prompt_ids, sampling):
            ids = (*CHAT.tokenizer.encode(next(lines), add_special_tokens=False), CHAT.eos_id)
            return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)

    class Again:
        attempts = 2

        def branch(self, task, made, seed):
            return (made[0], 1) if made else None

    from mappa.play.rollout import Listener

    class Ear(Listener):
        async def on_action(self, purpose, task, actions):
            told.append(actions[-1].id)

    executor = SEAT | {"prompt": "{{task}}", "tool": True, "max_turns": 2, "max_tokens": 60}
    pool = KernelPool(warm=0, max_kernels=1, preload=())
    await pool.start()
    try:
        rollout = Rollout(Chain({"executor": executor}), RELAY, Scripted(), CHAT, pool, 1, 100)
        work = units(jobs(2, tasks=1), Again())
        first, second = await rollout.collect(work, "train", [Ear()], 1.0, 1.0, Again())
    finally:
        await pool.close()
    assert [a.tool.text for a in first.actions] == ["set", "21"]
    assert [a.tool.text for a in second.actions] == ["set", "42"]
    assert second.actions[0] is first.actions[0]
    assert told == ["0-000/0", "0-000/1", "0-001/1"], "judged and counted once"


def pairs(select: Siblings, *episodes: Episode) -> list[tuple[str, str]]:
    ratings = {e.id: Rating(e.grade.score, {}) for e in episodes}
    found = select.choose(Collected(episodes, {}, 0, None, None, (), lambda value: [value]), ratings)
    return sorted((chosen.action.id, rejected.action.id) for chosen, rejected in found.groups)


def test_siblings_are_the_best_and_the_worst_child_of_a_node():
    a = chain_of("start", "good one", name="a", score=0.9)
    b = chain_of("bad luck", name="b", score=0.1, shared=a.actions[:1])
    c = chain_of("so and so", name="c", score=0.5, shared=a.actions[:1])
    other = chain_of("wholly different", name="d", score=0.0)
    every = Siblings(share=1.0)
    assert pairs(every, a, b, c, other) == [("a/0", "d/0"), ("a/1", "b/1")]
    assert pairs(Siblings(share=0.5), a, b, c, other) == [("a/1", "b/1")], "the better one's value decides"
    assert pairs(Siblings(share=1.0, least=0.95), a, b, c, other) == []
    assert pairs(Siblings(share=1.0, gap=0.6), a, b, c, other) == [("a/1", "b/1")]
    everyone = pairs(Siblings(share=1.0, all_pairs=True), a, b, c, other)
    assert everyone == [("a/0", "d/0"), ("a/1", "b/1"), ("a/1", "c/1"), ("c/1", "b/1")]


def test_pairs_have_the_same_context_and_rated_episodes():
    a, b = chain_of("one thing", name="a"), chain_of("another", name="b", score=0.0)
    elsewhere = Episode(**{**vars(b), "actions": (make_action("agent", name="b/0", text="another", prompt=5),)})
    assert pairs(Siblings(share=1.0), a, elsewhere) == []
    ratings = {"a": Rating(1.0, {})}
    unrated = Siblings().choose(Collected([a, b], {}, 0, None, None, (), lambda value: [value]), ratings)
    assert unrated.groups == []
