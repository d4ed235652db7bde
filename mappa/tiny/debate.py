"""Demonstrations of the debate: competent but careless colleagues who compute in steps and compare answers.

Generators compute in one of three orders, each step slipping now and then; slips are independent of each other, and no
order is systematically wrong. The summariser copies. Critics say what the others agree on; where these differ they keep
what they had, or compute anew with more care.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.policy.chat import Chat
from mappa.task.arithmetic import problem
from mappa.text import fill, last_boxed
from mappa.tiny.imitation import Example, Recipe, example, like_lengths, make_tokenizer, spoken
from mappa.types import Message, Task

RECIPE = Recipe(
    experiment="quickstart_debate",
    folder="tiny_debate",
    vocabulary=512,
    token_bytes=None,
    context=256,
    layers=4,
    width=96,
    batch=64,
    steps=3000,
    rate=3e-3,
    whole_numbers=(-99, 129),
)
SLIP = 0.09
"""Of one step of a generator."""
SLIP_IN_DISPUTE = 0.14
"""Likewise where what follows is a critic's turn: disagreement is common in its examples."""
CARE = 1 / 3
"""A critic who computes anew slips at this share of the rate."""
MISCOPIED = 0.02
QUOTED = 0.25
"""Share of critics' examples in which the others are quoted instead of summarised."""
_SLIPS = (1, 2, 3, 10)
_FOR_THE_TOKENIZER = 300


def texts(cfg: DictConfig, seed: int) -> Iterator[str]:
    """Conversations of some problems, for the tokenizer."""
    chat = Chat(make_tokenizer(iter(()), RECIPE))
    for ids, _ in islice(_stream(cfg, chat, seed), _FOR_THE_TOKENIZER):
        yield chat.decode(ids)


def examples(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    """Endless, each problem new; those of like length together."""
    rng, stream = random.Random(seed), islice(_stream(cfg, chat, seed), _FOR_THE_TOKENIZER, None)
    while True:
        yield from like_lengths(islice(stream, 8 * RECIPE.batch), RECIPE.batch, rng)


def _stream(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    rng, team = random.Random(seed), OmegaConf.to_container(cfg.team)
    while True:
        yield from demonstrate(rng, chat, team, problem([rng.randint(1, cfg.task.largest) for _ in range(6)]))


def demonstrate(rng: random.Random, chat: Chat, team: Mapping[str, Any], task: Task) -> Iterator[Example]:
    """Two generators, a summariser and a critic on one problem."""
    opening = _render(chat, team["generator"], task=task.question)
    for _ in range(2):
        yield example(chat, opening, steps(rng, task, SLIP))
    own, *others = (steps(rng, task, SLIP_IN_DISPUTE) for _ in range(3))
    if rng.random() < QUOTED:  # of a later round: critics may answer without steps
        others = [rf"\boxed{{{last_boxed(text)}}}" for text in others]
    quoted = "\n".join(others)
    heard = summary(rng, others)
    yield example(chat, _render(chat, team["summariser"], others=quoted), heard)
    reply = fill(team["reply"], {"heard": quoted if rng.random() < QUOTED else heard})
    context = chat.extend(opening, spoken(chat, own), [Message("user", reply)])
    yield example(chat, context, critique(rng, task, own, others))


def steps(rng: random.Random, task: Task, slip: float) -> str:
    r"""`4*5=20;7*8=56;3+20=23;...` in a random order of operations, then the answer in `\boxed{}`."""
    a, b, c, d, e, f = map(int, task.id.removeprefix("arithmetic-").split("-"))
    written: list[str] = []

    def step(left: int, sign: str, right: int) -> int:
        result = {"*": left * right, "+": left + right, "-": left - right}[sign]
        if rng.random() < slip:
            result += rng.choice(_SLIPS) * rng.choice((-1, 1))
        written.append(f"{left}{sign}{right}={result}")
        return result

    match rng.randrange(3):
        case 0:  # left to right
            total = step(step(a, "+", step(b, "*", c)), "+", d)
            total = step(total, "-", step(e, "*", f))
        case 1:  # products first
            first, second = step(b, "*", c), step(e, "*", f)
            total = step(step(step(a, "+", first), "+", d), "-", second)
        case _:  # the single numbers first
            outer = step(a, "+", d)
            total = step(step(outer, "+", step(b, "*", c)), "-", step(e, "*", f))
    return rf"{';'.join(written)} \boxed{{{total}}}"


def summary(rng: random.Random, others: list[str]) -> str:
    """`both say 5.` or `5 and 7.`, rarely miscopied."""
    answers = [int(last_boxed(text)) for text in others]
    if rng.random() < MISCOPIED:
        answers[rng.randrange(len(answers))] += rng.choice(_SLIPS)
    if len(set(answers)) == 1:
        return f"both say {answers[0]}."
    return " and ".join(map(str, answers)) + "."


def critique(rng: random.Random, task: Task, own: str, others: list[str]) -> str:
    """What a critic says who had said `own` and hears what `others` say."""
    mine, theirs = last_boxed(own), [last_boxed(text) for text in others]
    agreed, chance = len(set(theirs)) == 1, rng.random()
    adopt, keep = (0.82, 0.10) if agreed else (0.05, 0.60)
    if chance < adopt:
        return rf"\boxed{{{rng.choice(theirs)}}}"
    if chance < adopt + keep:
        return rf"\boxed{{{mine}}}"
    return steps(rng, task, SLIP * CARE)


def _render(chat: Chat, seat: Mapping[str, Any], **values: str) -> tuple[int, ...]:
    return chat.render([Message("system", seat["system"]), Message("user", fill(seat["prompt"], values))])
