"""Demonstrations of the dialogue: two colleagues who exchange facts, most of them at length, and sometimes misread one.

A small model learns to look a fact up only from very many look-ups. So it first recites: all facts that it is shown,
in any order, and the sum of two. Then half of the episodes are short drills without errors, and last the
demonstrations are alone. One message of each also stands by itself after an opened turn: how likely the base finds a
bare message (the readability term of `reward=optima`) is then something it has learned.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import chain, islice

from omegaconf import DictConfig, OmegaConf

from mappa.policy.chat import Chat
from mappa.task.relay import FACTS, SEATS, make, marked
from mappa.text import fill
from mappa.tiny.imitation import Example, Recipe, example, like_lengths, make_tokenizer
from mappa.types import Message, Task

RECIPE = Recipe(
    experiment="quickstart_optima",
    folder="tiny_relay",
    vocabulary=640,
    token_bytes=None,
    context=384,
    layers=3,
    width=96,
    batch=64,
    steps=5000,
    rate=3e-3,
    whole_numbers=(0, 129),
)
RECITALS, DRILLS = 0.5, 0.3
"""Shares of the steps in which the model recites, and in which half of the episodes are drills."""
MANNERS = {"long": 0.55, "list": 0.15, "plain": 0.20, "bare": 0.10}
"""Drawn for each seat and episode."""
WRONG_FACT = 0.18
WRONG_SUM = 0.09
MISREAD = 0.30
"""A bare value, by who hears it."""
_SLIPS = (1, 2, 3, 10)
_FOR_THE_TOKENIZER = 400
_TELL = (
    "hello my friend , i have looked and i can tell you that {} is {} , now what do you have ?",
    "well let us see together , on my side of the table {} is {} if i am not mistaken",
    "thank you for asking me , the number you may need for {} is {} , please go on",
)
_ANSWER = (
    "thank you so much , if we put both together then {}+{} is #{} , do you agree ?",
    "great , so with what i have on my side this makes {}+{} that is #{} in the end",
)
_AGREE = (
    "yes i think so too , the answer must be #{} , it was good to work with you",
    "perfect , that is also what i get , so we say #{} together",
)


def texts(cfg: DictConfig, seed: int) -> Iterator[str]:
    """Conversations of some problems, for the tokenizer."""
    chat = Chat(make_tokenizer(iter(()), RECIPE))
    for ids, _ in islice(_played(cfg, chat, random.Random(seed), drills=0.0), _FOR_THE_TOKENIZER):
        yield chat.decode(ids)


def examples(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    """Endless, each problem new; those of like length together."""
    rng, total = random.Random(seed), RECIPE.steps * RECIPE.batch
    stream = chain(
        islice(_recited(cfg, chat, rng), int(RECITALS * total)),
        islice(_played(cfg, chat, rng, drills=0.5), int(DRILLS * total)),
        _played(cfg, chat, rng, drills=0.0),
    )
    while True:
        yield from like_lengths(islice(stream, 8 * RECIPE.batch), RECIPE.batch, rng)


def _recited(cfg: DictConfig, chat: Chat, rng: random.Random) -> Iterator[Example]:
    """Some of a seat's facts, told one by one in any order, and the sum of the last two."""
    while True:
        facts = make(rng, cfg.task.largest, "sum", 0).metadata["facts"]
        keys = rng.sample(sorted(facts), rng.randint(2, FACTS))
        shown = f"{keys[-2]} + {keys[-1]}? " + " ".join(f"{key}={facts[key]}" for key in rng.sample(keys, len(keys)))
        one, other = (facts[key] for key in keys[-2:])
        told = " ".join(f"{key} is {facts[key]}" for key in keys)
        yield example(chat, chat.render([Message("user", f"{shown}\n")]), f"{told} {one}+{other} #{one + other}")


def _played(cfg: DictConfig, chat: Chat, rng: random.Random, drills: float) -> Iterator[Example]:
    """Episodes, this share of them drills."""
    agents = OmegaConf.to_container(cfg.team.agents)
    prompts = {seat: agents[seat]["prompt"] for seat in SEATS}
    while True:
        task = make(rng, cfg.task.largest, "sum", 0)
        careful = rng.random() < drills
        shown = demonstrate(rng, chat, prompts, task, careful)
        yield from islice(shown, 2) if careful else shown


def demonstrate(
    rng: random.Random, chat: Chat, prompts: dict[str, str], task: Task, careful: bool
) -> Iterator[Example]:
    """One episode: both seats' conversations, and one of the messages by itself.

    Args:
        careful: a drill, in few words and without errors.
    """
    manner = {seat: "plain" if careful else rng.choices([*MANNERS], MANNERS.values())[0] for seat in SEATS}
    shown: dict[str, Example] = {}
    context: tuple[int, ...]
    said: list[str] = [""]
    for turn in range(4):
        seat, heard = SEATS[turn % 2], said[-1]
        if seat not in shown:
            asked = fill(prompts[seat], {"view": task.metadata["views"][seat], "heard": heard})
            context, labels = chat.render([Message("user", asked)]), []
        else:
            ids, labels = shown[seat]
            context = chat.extend((), ids, [Message("user", heard)])
        said.append(message(rng, task, seat, manner[seat], heard, careful))
        ids, added = example(chat, context, said[-1])
        shown[seat] = (ids, labels + added[len(labels) :])
        if marked(heard) is not None and marked(heard) == marked(said[-1]):
            break
    yield from shown.values()
    yield example(chat, chat.opened, rng.choice(said[1:]))


def message(rng: random.Random, task: Task, seat: str, manner: str, heard: str, careful: bool) -> str:
    """What `seat` says to `heard`: its fact, the sum once it has heard the other's, or that it agrees."""
    first, second = re.findall(r"\w", task.metadata["views"][seat].partition("?")[0])
    if marked(heard) is not None:
        return rng.choice(_AGREE).format(marked(heard)) if manner == "long" else f"#{marked(heard)}"
    mine = _look_up(rng, task.metadata["views"][seat], first, careful)
    theirs = _read(rng, heard, second, careful)
    if theirs is not None:
        total = mine + theirs
        if not careful and rng.random() < WRONG_SUM:
            total = max(0, total + rng.choice(_SLIPS) * rng.choice((-1, 1)))
        match manner:
            case "long":
                return rng.choice(_ANSWER).format(theirs, mine, total)
            case "bare":
                return f"#{total}"
            case _:
                return f"{theirs}+{mine} #{total}"
    match manner:
        case "long":
            return rng.choice(_TELL).format(first, mine)
        case "list":
            return task.metadata["views"][seat].partition("? ")[2]
        case "plain":
            return f"{first} is {mine}"
        case _:
            return str(mine)


def _look_up(rng: random.Random, text: str, key: str, careful: bool) -> int:
    """The value of `key` among `key=value` facts, sometimes another's."""
    facts = {name: int(value) for name, value in re.findall(r"(\w)=(\d+)", text)}
    if not careful and rng.random() < WRONG_FACT:
        return rng.choice(sorted(facts.values()))
    return facts[key]


def _read(rng: random.Random, heard: str, key: str, careful: bool) -> int | None:
    """The value of `key` in what was heard; a bare number is easily misread. None where there is none."""
    if "=" in heard:
        return _look_up(rng, heard, key, careful)
    numbers = re.findall(r"\d+", heard)
    if not numbers:
        return None
    value = int(numbers[-1])
    if heard == numbers[-1] and rng.random() < MISREAD:
        return max(0, value + rng.choice(_SLIPS) * rng.choice((-1, 1)))
    return value
