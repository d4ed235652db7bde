"""Seats in a row on a real tokenizer; only the model is scripted."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from mappa.config import ASSETS
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import ConfigError
from mappa.play.agent import SHARED
from mappa.play.rollout import adapters_of
from mappa.play.scene import Scene
from mappa.policy.model import Model
from mappa.team.row import Row
from mappa.types import StopReason, Task
from sandbox import KernelPool

CHAT = Model(str(ASSETS / "tiny")).chat()
SEAT = {"role": "r", "prompt": "{{task}} [{{before}}] {{seat}}", "max_tokens": 60}


class Counting(BaseEngine):
    """Says its adapter and how often anybody spoke."""

    context_length = 4096

    def __init__(self) -> None:
        self.count = 0

    async def generate(self, agent: str, prompt_ids, sampling: Sampling) -> Completion:
        self.count += 1
        ids = (*CHAT.tokenizer.encode(f"{agent}/{self.count}", add_special_tokens=False), CHAT.eos_id)
        return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)


async def play(team: Row) -> tuple[str, Scene]:
    async def ignore(task, actions):
        pass

    pool = KernelPool(warm=0, max_kernels=1, preload=())
    await pool.start()
    async with AsyncExitStack() as stack:
        task = Task("t", "sum", "1")
        scene = Scene("e", task, 0, Counting(), CHAT, pool, 1.0, 1.0, 100, ignore, str, 0, (), stack)
        text = await team.play(scene)
    await pool.close()
    return text, scene


async def test_each_goes_on_from_the_one_before_and_the_last_one_answers():
    team = Row(3, SEAT)
    text, scene = await play(team)
    assert adapters_of(team) == ["seat_a", "seat_b", "seat_c"]
    assert [action.seat for action in scene.actions] == ["seat_a", "seat_b", "seat_c"]
    asked = [action.messages[-1].content for action in scene.actions]
    assert asked == ["sum [] a", "sum [seat_a/1] b", "sum [seat_b/2] c"]
    assert text == "seat_c/3"


async def test_one_adapter_for_all():
    team = Row(3, SEAT, shared=True)
    text, _ = await play(team)
    assert adapters_of(team) == [SHARED]
    assert text == f"{SHARED}/3"


def test_mistakes_in_the_configuration():
    with pytest.raises(ConfigError, match=r"team\.seat\.prompt is missing"):
        Row(2, {"role": "r", "max_tokens": 3})
    with pytest.raises(ConfigError, match=r"unknown placeholder \{\{heard\}\}"):
        Row(2, SEAT | {"prompt": "{{heard}}"})
