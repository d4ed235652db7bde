"""Demonstrations of the mathchat team, noisy on purpose.

Drafts drop or change a term, code has a wrong operator or misses a bracket, reports miscopy a digit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.policy.chat import Chat
from mappa.task.arithmetic import problem
from mappa.text import fill
from mappa.tiny.imitation import Example, Recipe, example
from mappa.types import Message

RECIPE = Recipe(
    experiment="quickstart",
    folder="tiny",
    vocabulary=384,
    token_bytes=None,
    context=1024,
    layers=4,
    width=128,
    batch=48,
    steps=600,
    rate=2e-3,
)
Turn = tuple[Sequence[Message], str]
"""What an agent sees, and what the demonstration lets it say."""
_FOR_THE_TOKENIZER = 500


def texts(cfg: DictConfig, seed: int) -> Iterator[str]:
    """Conversations of some problems, for the tokenizer."""
    for turns in islice(_stream(cfg, seed), _FOR_THE_TOKENIZER):
        for seen, said in turns:
            yield from (f"{m.role}\n{m.content}" for m in [*seen, Message("assistant", said)])


def examples(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    """Endless, each problem new."""
    for turns in islice(_stream(cfg, seed), _FOR_THE_TOKENIZER, None):
        for seen, said in turns:
            yield example(chat, chat.render(seen), said)


def _stream(cfg: DictConfig, seed: int) -> Iterator[list[Turn]]:
    rng, agents = random.Random(seed), OmegaConf.to_container(cfg.team.agents)
    while True:
        yield demonstrate(rng, agents)


def noisy_terms(rng: random.Random, expression: str, rate: float) -> str:
    """Copy an expression; with probability `rate` drop a term, swap an operator, or change a digit."""
    if rng.random() >= rate:
        return expression
    slip = rng.choice(["drop", "operator", "digit"])
    if slip == "drop":
        parts = re.split(r" (?=[+-])", expression)
        del parts[rng.randrange(1, len(parts))]
        return " ".join(parts)
    places = [m.start() for m in re.finditer(r"[+*-]" if slip == "operator" else r"\d", expression)]
    at = rng.choice(places)
    others = {"operator": "+-*", "digit": "123456789"}[slip].replace(expression[at], "")
    return expression[:at] + rng.choice(others) + expression[at + 1 :]


def noisy_number(rng: random.Random, number: str, rate: float) -> str:
    """Copy a number; with probability `rate` change a digit, drop one, or lose the sign."""
    if rng.random() >= rate:
        return number
    digits = [index for index, char in enumerate(number) if char.isdigit()]
    at = rng.choice(digits)
    slip = rng.choice(["change", "drop", "sign"])
    if slip == "sign":
        return number[1:] if number[0] == "-" else "-" + number
    if slip == "drop" and len(digits) > 1:
        return number[:at] + number[at + 1 :]
    return number[:at] + rng.choice("0123456789".replace(number[at], "")) + number[at + 1 :]


def run_code(code: str) -> str:
    """What a Python kernel answers to a demonstration's one-line program, in short."""
    inner = re.fullmatch(r"print\((.*)\)", code)
    if inner is None:
        return "[sandbox] the code ran without output" if code.count("(") == code.count(")") else "SyntaxError"
    return str(eval(inner[1], {"__builtins__": {}}))


def demonstrate(rng: random.Random, agents: Mapping[str, Any]) -> list[Turn]:
    """All turns of the team on one random problem, slips included."""
    task = problem([rng.randint(1, 30) for _ in range(6)])
    expression = task.metadata["expression"]
    turns: list[Turn] = []

    def opening(name: str, **values: str) -> list[Message]:
        text = fill(agents[name]["prompt"], {"task": task.question, **values})
        return [Message("system", agents[name]["system"]), Message("user", text)]

    draft = noisy_terms(rng, expression, 0.26)
    turns.append((opening("solver"), draft))

    source = draft if rng.random() < 0.6 else expression
    code = f"print({noisy_terms(rng, source, 0.2)})"
    slip = rng.random()
    code = code[:-1] if slip < 0.04 else code[6:-1] if slip < 0.06 else code
    seen = opening("executor", solver=draft)
    said = f"```python\n{code}\n```"
    turns.append((seen, said))
    result = run_code(code)
    seen = [
        *seen,
        Message("assistant", said),
        Message("user", fill(agents["executor"]["observation"], {"tool": result})),
    ]
    if re.fullmatch(r"-?\d+", result):
        turns.append((seen, f"Result: {noisy_number(rng, result, 0.1)}"))
    else:
        code = f"print({noisy_terms(rng, source, 0.15)})"
        turns.append((seen, f"```python\n{code}\n```"))
        result = run_code(code)
    turns.append(
        (
            opening("verifier", solver=draft, executor_tool=result),
            f"\\boxed{{{noisy_number(rng, result, 0.24)}}}",
        )
    )
    return turns
