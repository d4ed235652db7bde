r"""Final answers: finding them in a team's last text, and deciding whether they are the true one.

Plain numbers (all of AIME and AMC) are compared exactly, here and at once; anything else goes to math-verify in a
killable process (`mappa.task.verifier`), at most `limit_s` seconds an answer. math-verify looks for an expression in
whatever it is given, so it is given nothing that says more than an expression: no prose, no second value, no question.
"""

from __future__ import annotations

import functools
import re

from mappa.task import verifier
from mappa.task.notation import EQUALS, compact, is_constant, label, number, percentage, tidy, without_unit
from mappa.text import last_boxed, strip_reasoning

_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|####)[\s:*]*([^\n]+)", re.IGNORECASE)
_DRESS = " \t*`."
"""Markdown and full stops around an answer."""
_OPENED = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_ALTERNATIVES = re.compile(r"^(\S+(?: or \S+)+)(?: \(.*\))?$")
_RELATION = re.compile(r"[<>]|\\(?:[gl]e|[gl]eq|[gl]eqslant|ne|neq|not|notin|lt|gt|nleq|ngeq)(?![a-zA-Z])|!=")
_SET = re.compile(r"[\[(].*,.*[\])]|\\(?:cup|infty|emptyset|mathbb)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\}|\\[a-zA-Z]+")
_EXPRESSION = re.compile(
    r"\\(?:frac|sqrt|cdot|times|div|pi|circ|binom|infty|cup|cap|emptyset|in|pm|mp|setminus|mathbb|mathcal|angle|"
    r"triangle|bar|vec|hat|overline|[lr](?:floor|ceil|vert|brace)|[lr]?vert|mid|begin|end|sin|cos|tan|cot|sec|csc|arc[a-z]+|"
    r"log|ln|exp|min|max|gcd|(?:var)?(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|omega)|"
    r"[Pp]si|[Dd]elta|Gamma|Omega|Phi|[gl]eq?(?:slant)?|lt|gt|ne|neq|lor)(?![a-zA-Z])"
)
"""Commands that build a value, or a set of them."""
_WORD = re.compile(r"[A-Za-z]{2,}")
_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan)|cot|sec|csc|log|ln|exp|max|min|gcd|lcm")


def extract(text: str) -> str | None:
    r"""The final answer stated in `text`, reasoning dropped: what the last complete `\boxed{...}` holds.

    Without a box: what follows the last "answer is", "answer:" or "####" on its line; a text of one short line is the
    answer itself. None if there is no answer; a box that was never closed may have been cut off, and is none.
    """
    text = strip_reasoning(text)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    if _OPENED.search(text):
        return None
    stated = _STATED.findall(text)
    if stated:
        return stated[-1].strip(_DRESS) or None
    return text.strip(_DRESS) or None if "\n" not in text and len(text) <= 40 else None


def canonical(expression: str, limit_s: float = 5.0) -> str:
    """One spelling for equal answers, for voting: plain numbers by value, expressions as sympy writes their value.

    Text, and what could not be simplified within `limit_s` seconds, stands for itself.
    """
    if len(expression) > verifier.MAX_CHARACTERS:
        return expression
    value = number(expression)
    if value is None:
        value = percentage(expression)
    return str(value) if value is not None else _simplified(tidy(expression), limit_s)


def matches(expression: str, truth: str, limit_s: float) -> bool | None:
    """Whether an extracted answer equals the ground truth; None when `limit_s` seconds did not suffice to decide.

    A truth such as `080 or 081 (both were accepted)` accepts either; an answer that offers several values is wrong.
    """
    if len(expression) > verifier.MAX_CHARACTERS:
        return False
    alternatives = _ALTERNATIVES.match(truth.strip())
    accepted = alternatives[1].split(" or ") if alternatives else [truth.strip()]
    outcomes = [_matches_one(expression, one, limit_s / len(accepted)) for one in accepted]
    if True in outcomes:
        return True
    return None if None in outcomes else False


def equivalent(answer_text: str, truth: str, limit_s: float = 5.0) -> bool:
    """Whether the final answer stated in `answer_text` (a whole reply or a bare answer) equals `truth`.

    Works from any thread or process and takes at most about `limit_s` seconds; undecided by then counts as wrong.
    """
    answer = extract(answer_text)
    return answer is not None and matches(answer, truth, limit_s) is True


def _matches_one(expression: str, truth: str, limit_s: float) -> bool | None:
    if re.fullmatch(r"[A-E]", truth):
        return label(expression) == truth
    if compact(expression) == compact(truth):
        return True
    steps = EQUALS.split(tidy(expression))
    constants = [step for step in steps[:-1] if is_constant(step)] if not EQUALS.search(truth) else []
    share_s = limit_s / (1 + len(constants))
    for step in constants:
        if not (agrees := _same_value(step, steps[-1], share_s)):
            return agrees
    return _same_value(steps[-1] if constants else expression, truth, share_s)


def _same_value(expression: str, truth: str, limit_s: float) -> bool | None:
    percents = percentage(expression), percentage(truth)
    if percents[0] is not None and percents[1] is not None:
        return percents[0] == percents[1]
    found, wanted = _readings(expression), _readings(truth)
    if found and wanted:
        return not found.isdisjoint(wanted)
    if _says_more(expression, truth):
        return compact(expression).casefold() == compact(truth).casefold()
    return verifier.shared().check(_plain(expression), _plain(truth), limit_s)


def _plain(expression: str) -> str:
    """A plain number by its value, else without dress and unit."""
    value = number(expression)
    return without_unit(tidy(expression)) if value is None else str(value)


def _readings(expression: str) -> set:
    """The plain number; a percentage also as a share."""
    value, percent = number(expression), percentage(expression)
    return {value} - {None} if percent is None else {percent, percent / 100}


def _says_more(expression: str, truth: str) -> bool:
    """Whether the answer holds what no expression of the truth's kind does, or the truth is text itself."""
    said, wanted = (without_unit(tidy(text)) for text in (expression, truth))
    if re.fullmatch(r"\\text\s*\{.*\}", truth.strip()) or re.fullmatch(r"[A-Za-z ]{3,}", wanted):
        return True
    if not said.isascii() or "?" in said or ("_" in said.replace(r"\log_", "") and "_" not in wanted):
        return True
    commands = set(re.findall(r"\\[a-zA-Z]+", said))
    if not all(_EXPRESSION.fullmatch(command) or command in wanted for command in commands):
        return True
    is_set = _SET.search(wanted) or _RELATION.search(wanted)
    if _RELATION.search(said) and not is_set:
        return True
    words = _words(EQUALS.split(said)[-1]) - ({"or"} if is_set else set())
    return not set("".join(words)) <= set(_COMMAND.sub(" ", wanted))


def _words(text: str) -> set[str]:
    """What stands outside commands and is neither a function nor a single letter."""
    return {word for word in _WORD.findall(_COMMAND.sub(" ", text)) if not _FUNCTION.fullmatch(word)}


@functools.lru_cache(maxsize=4096)
def _simplified(text: str, limit_s: float) -> str:
    steps = EQUALS.split(text)
    last = text if is_constant(steps[0]) else steps[-1]
    if _words(last) or not last.isascii() or "?" in last:
        return text.replace(" ", "")
    return verifier.shared().canonical(without_unit(last), limit_s) or text.replace(" ", "")
