"""Demonstrations of the relay chain, careless on purpose: a neighbour's line, a digit miscopied, a wrong sum.

A small model learns to look a line up only from very many look-ups, so at first most examples recite a whole chain
without slips.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, islice

from omegaconf import DictConfig

from mappa.policy.chat import Chat
from mappa.task.relay_chain import SEATS, last_digit, make
from mappa.text import fill
from mappa.tiny.imitation import Example, Recipe, example, make_tokenizer
from mappa.types import Message, Task

RECIPE = Recipe(
    experiment="credit_lab",
    folder="tiny_relay_chain",
    vocabulary=300,
    token_bytes=None,
    context=192,
    layers=3,
    width=96,
    batch=64,
    steps=1500,
    rate=3e-3,
)
SLIPS = 0.2
"""Share of the demonstrated steps with a slip."""
LENGTHS = (2, 4, 8)
RECITALS = 0.4
"""Share of the steps in which whole chains are recited."""
_FOR_THE_TOKENIZER = 400


def texts(cfg: DictConfig, seed: int) -> Iterator[str]:
    """Conversations of some problems, for the tokenizer."""
    chat = Chat(make_tokenizer(iter(()), RECIPE))
    for ids, _ in islice(_steps(cfg, chat, random.Random(seed)), _FOR_THE_TOKENIZER):
        yield chat.decode(ids)


def examples(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    """Endless, each problem new."""
    rng = random.Random(seed)
    recited = islice(_recited(chat, rng), int(RECITALS * RECIPE.steps * RECIPE.batch))
    return chain(recited, _steps(cfg, chat, rng))


def _recited(chat: Chat, rng: random.Random) -> Iterator[Example]:
    """All steps of a problem, one after the other."""
    while True:
        task, said = make(rng, rng.choice(LENGTHS)), [""]
        for index in range(len(task.question.splitlines()) - 1):
            said.append(say(rng, task, index, said[-1], 0.0))
        yield example(chat, chat.render([Message("user", task.question)]), "\n".join(said[1:]))


def _steps(cfg: DictConfig, chat: Chat, rng: random.Random) -> Iterator[Example]:
    """One step of each problem, in the words of the experiment's own prompt. Slips were handed on."""
    seat = cfg.team.seat
    while True:
        task = make(rng, rng.choice(LENGTHS))
        before, last = "", rng.randrange(len(task.question.splitlines()) - 1)
        for index in range(last):
            before = say(rng, task, index, before, SLIPS)
        asked = fill(seat.prompt, {"task": task.question, "seat": SEATS[last], "before": before})
        opening = chat.render([Message("system", seat.system), Message("user", asked)])
        yield example(chat, opening, say(rng, task, last, before, SLIPS))


def say(rng: random.Random, task: Task, index: int, before: str, rate: float) -> str:
    """The step of seat `index`, with probability `rate` with a slip."""
    start, *lines = task.question.splitlines()
    handed = int(last_digit(before or start) or 0)
    slip = rng.choice(("line", "digit", "sum")) if rng.random() < rate else ""
    if slip == "line":
        index = rng.choice([i for i in (index - 1, index + 1) if 0 <= i < len(lines)])
    elif slip == "digit":
        handed = (handed + rng.randint(1, 9)) % 10
    total = handed + int(lines[index][-1]) + (rng.randint(1, 9) if slip == "sum" else 0)
    return f"{lines[index]} {handed}={total % 10}"
