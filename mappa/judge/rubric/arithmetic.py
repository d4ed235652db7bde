"""A deterministic, process-level judge for arithmetic: no model, no network, no answer key.

It scores what each role is there for, from what the agent was asked and what its tools answered:
    draft    did it keep the terms of the problem's expression?
    code     did the code run, print something, and compute this expression?
    report   does the text repeat what the tool said?
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping

from mappa.errors import ConfigError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.text import last_boxed
from mappa.types import Action, Verdict

_EXPRESSION = re.compile(r"\d[\d\s+*/-]*\d|\d")
_NUMBER = re.compile(r"-?\d+")
RULES = ("draft", "code", "report")


class RubricJudge(BaseJudge):
    """Full marks 10; partial credit for partial work."""

    def __init__(self, rules: Mapping[str, str], sees_ground_truth: bool = False, when: str = "action") -> None:
        """`rules`: agent -> draft | code | report. `sees_ground_truth`: a report is also checked against the key."""
        unknown = sorted(set(rules.values()) - set(RULES))
        if unknown:
            raise ConfigError(f"judge.rules: unknown rule '{unknown[0]}'; available: {', '.join(RULES)}")
        self._rules = dict(rules)
        self._sees_ground_truth = sees_ground_truth
        self.when = When(when)
        self.id = f"rubric-arithmetic-1{'-truth' if sees_ground_truth else ''}"

    async def score(self, evidence: Evidence) -> Verdict:
        action = evidence.action
        rule = self._rules.get(action.seat)
        if rule is None:
            return Verdict(None, f"no rule for agent '{action.seat}'", self.id)
        wanted = terms(evidence.task.question)
        if rule == "draft":
            score, reason = _draft(action, wanted)
        elif rule == "code":
            score, reason = _code(evidence, wanted)
        else:
            truth = evidence.task.answer if self._sees_ground_truth else None
            score, reason = _report(evidence, truth)
        return Verdict(score, reason, self.id)


def terms(text: str) -> Counter[str]:
    """Signed terms of the longest arithmetic expression in `text`, e.g. `3 + 4*5 - 6` -> {+3, +4*5, -6}."""
    found = [match.strip() for match in _EXPRESSION.findall(text)]
    if not found:
        return Counter()
    compact = re.sub(r"\s+", "", max(found, key=len))
    return Counter(re.findall(r"[+-][^+-]+", compact if compact[0] == "-" else "+" + compact))


def overlap(found: Counter[str], wanted: Counter[str]) -> float:
    """Share of terms in common, 0-1: missing and added terms both count against it."""
    return (found & wanted).total() / max(found.total(), wanted.total(), 1)


def _draft(action: Action, wanted: Counter[str]) -> tuple[float, str]:
    share = overlap(terms(action.text), wanted)
    return _graded(share, f"the draft keeps {share:.0%} of the terms")


def _code(evidence: Evidence, wanted: Counter[str]) -> tuple[float, str]:
    run = evidence.action.tool
    if run is None:
        earlier = [a.tool for a in evidence.before if a.seat == evidence.action.seat and a.tool is not None]
        if earlier and earlier[-1].status == "ok":
            return _repeats(evidence.action.text, earlier[-1].text, "the result")
        return 0.0, "no code was written"
    if run.status != "ok":
        return 1.0, f"the code did not run: {run.status}"
    if not _NUMBER.fullmatch(run.text.strip()):
        return 2.0, "the code did not print one number"
    share = overlap(_printed_terms(run.code), wanted)
    return _graded(share, f"the code computes {share:.0%} of the expression", floor=2.0)


def _report(evidence: Evidence, truth: str | None) -> tuple[float, str]:
    boxed = last_boxed(evidence.action.text)
    if boxed is None:
        return 0.0, "no \\boxed{} answer"
    runs = [action.tool for action in evidence.before if action.tool is not None]
    if not runs or not _NUMBER.fullmatch(runs[-1].text.strip()):
        return 3.0, "there is no tool result that could be reported"
    score, reason = _repeats(boxed, runs[-1].text, "the answer")
    if truth is not None and boxed != truth:
        return min(score, 5.0), f"{reason}; it is not the right answer"
    return score, reason


def _repeats(text: str, said: str, what: str) -> tuple[float, str]:
    """10 if the last number of `text` is what the tool said, 1-4 by the share of digits in place."""
    numbers, said = _NUMBER.findall(text), said.strip()
    if not numbers:
        return 0.0, f"{what} holds no number"
    if numbers[-1] == said:
        return 10.0, f"{what} is what the tool said"
    same = sum(a == b for a, b in zip(numbers[-1], said, strict=False)) / max(len(numbers[-1]), len(said))
    return 1.0 + 3.0 * same, f"{what} is {numbers[-1]}, the tool said {said}"


def _printed_terms(code: str) -> Counter[str]:
    """Terms of the expression that the code prints, from its syntax tree; empty if it cannot be followed."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return Counter()
    expressions = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    return terms(max(expressions, key=len)) if expressions else Counter()


def _graded(share: float, reason: str, floor: float = 0.0) -> tuple[float, str]:
    """10 for everything, otherwise `floor` to 6 by share: nearly right is still wrong."""
    return (10.0, reason) if share == 1.0 else (floor + (6.0 - floor) * share, reason)
