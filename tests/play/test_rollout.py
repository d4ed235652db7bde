"""A rollout goes on whatever happens to one episode."""

from __future__ import annotations

import asyncio
import random
import time
from types import SimpleNamespace

import pytest

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.engine.hf import HFEngine
from mappa.errors import TaskError
from mappa.play import rollout
from mappa.play.agent import Agent
from mappa.types import Grade, Task


class Echo:
    """A team whose answer is the question."""

    agents: dict = {}  # noqa: RUF012

    async def play(self, scene) -> str:
        return scene.task.question


class Moody:
    """A grader that meets the worst."""

    vote = staticmethod(lambda answer: answer)

    def grade(self, task, answer, workspace) -> Grade:
        if answer == "slow":
            time.sleep(2.0)
        if answer == "bad":
            raise ZeroDivisionError("two\nlines")
        if answer == "huge":
            raise MemoryError
        return Grade(1.0)


async def test_nothing_that_a_grader_raises_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rollout, "GRADE_SECONDS", 0.5)
    played = rollout.Rollout(Echo(), Moody(), BaseEngine(), None, None, concurrency=8, tool_tokens=100)
    jobs = [[rollout.Job(text, Task(text, text), 0)] for text in ("good", "bad", "slow", "huge")]
    episodes = {e.id: e for e in await asyncio.wait_for(played.collect(jobs, "train", (), 1.0, 1.0), 20)}
    assert episodes["good"].grade.score == 1.0
    assert episodes["bad"].error == "the grader failed: ZeroDivisionError: two lines"
    assert episodes["slow"].error == "grading took longer than 0.5 s"
    assert episodes["huge"].error.startswith("the grader failed: MemoryError")
    assert all(episodes[name].grade is None for name in ("bad", "slow", "huge"))


class Kernels(Echo):
    """Two seats that run code, so episodes are played in two groups; how long each takes is a matter of chance."""

    agents: dict = {"coder": Agent("coder", "codes", prompt="", max_tokens=4, tool=True)}  # noqa: RUF012

    async def play(self, scene) -> str:
        await asyncio.sleep(random.random() / 50)
        await scene.engine.generate("coder", (scene.seed,), None)
        return scene.task.question


async def test_who_shares_a_batch_does_not_depend_on_timing():
    """Bit for bit: in a lockstep engine the make-up of every batch is that of the jobs."""

    class Lockstep(HFEngine):
        def __init__(self):
            super().__init__()
            self.batches = set()
            self._adapters = SimpleNamespace(mixes=True)
            self.context_length = 100

        async def generate(self, agent, prompt_ids, sampling):
            return await super().generate(agent, prompt_ids, Sampling(1))

        def _generate(self, batch):
            self.batches.add(tuple(request.prompt_ids[0] for request in batch))
            time.sleep(random.random() / 50)
            return [Completion((1,), (0.0,), "stop", 0)] * len(batch)

    found = []
    for _ in range(2):
        engine = Lockstep()
        played = rollout.Rollout(Kernels(), Moody(), engine, None, None, concurrency=6, tool_tokens=100)
        jobs = [[rollout.Job(str(i), Task(str(i), str(i)), i)] for i in range(22)]
        assert len(await played.collect(jobs, "train", (), 1.0, 1.0)) == 22
        await engine.close()
        found.append(engine.batches)
    assert found[0] == found[1]
    assert all(len({seed % 2 for seed in batch}) == 1 for batch in found[0]), "groups share no batch"
    assert len(found[0]) >= 8


class Raising(Echo):
    """A team that meets the worst."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def play(self, scene) -> str:
        if scene.task.id == "good":
            return "fine"
        raise self.failure


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), TypeError("x"), MemoryError("x")])
async def test_whatever_goes_wrong_in_one_episode_is_its_error(failure: Exception):
    played = rollout.Rollout(Raising(failure), Moody(), BaseEngine(), None, None, concurrency=2, tool_tokens=100)
    jobs = [[rollout.Job(text, Task(text, text), 0)] for text in ("good", "bad")]
    good, bad = await played.collect(jobs, "train", (), 1.0, 1.0)
    assert (good.error, good.grade.score) == (None, 1.0)
    assert bad.error == f"the episode failed: {type(failure).__name__}: {failure}"


class Deaf(rollout.Listener):
    """A callback with a fault."""

    async def on_action(self, purpose, task, actions) -> None:
        raise ZeroDivisionError


class Acting(Echo):
    async def play(self, scene) -> str:
        await scene.on_action(scene.task, ())
        return ""


@pytest.mark.parametrize(
    ("team", "listeners", "error"),
    [(Raising(TaskError("gone")), (), TaskError), (Acting(), (Deaf(),), ZeroDivisionError)],
)
async def test_a_lost_file_and_a_faulty_callback_end_the_run(team, listeners, error):
    played = rollout.Rollout(team, Moody(), BaseEngine(), None, None, concurrency=2, tool_tokens=100)
    with pytest.raises(error):
        await played.collect([[rollout.Job("bad", Task("bad", "bad"), 0)]], "train", listeners, 1.0, 1.0)
