r"""Final answers: finding them in a team's last text, and deciding whether they are the true one.

Plain numbers (all of AIME and AMC) are compared exactly, here and at once; anything else goes to math-verify in a
killable process (`mappa.task.verifier`), at most `limit_s` seconds an answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

from mappa.task import verifier
from mappa.text import last_boxed, strip_reasoning

MAX_DIGITS = 100
_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|####)[\s:*]*([^\n]+)", re.IGNORECASE)
_WRAPPER = re.compile(r"^\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|displaystyle|bf|rm)\s*(?=[{\s(])")
_LABEL = re.compile(
    r"^(?:\\(?:text|textbf|mathrm|mathbf|bf|rm)\s*\{\s*\(?([A-Ea-e])\)?[.:)]?\s*\}|\(([A-Ea-e])\))"
    r"(?:[\s~:]|\\[ ,;:!]|\\q?quad)*"
)
_LABEL_INSIDE = re.compile(r"^\\(?:text|textbf|mathrm|mathbf)\s*\{\s*\(([A-Ea-e])\)\s*(?=[^\s}])")
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad|~|\s+")
_DIGIT_GROUPS = re.compile(r"(?<=\d) +(?=\d)")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|textrm)\s*\{[A-Za-z\s.^\d]*\}(?:\^\d|\^\{\d\})?|\^\{?\\circ\}?|\\degree|°)$"
)
_INTEGER = r"\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+"
_DECIMAL = re.compile(rf"([+-]?)(?:({_INTEGER})(?:\.(\d*))?|\.(\d+))")
_RATIO = re.compile(r"([+-]?)(?:\\frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d))|(\d+)/(\d+))")
_SEVERAL = re.compile(r"[,;<>!≤≥]|\\q?quad|\\text|\b(?:and|or)\b")
_ALTERNATIVES = re.compile(r"^(\S+(?: or \S+)+)(?: \(.*\))?$")


def extract(text: str) -> str | None:
    r"""The final answer stated in `text`, reasoning dropped: what the last complete `\boxed{...}` holds.

    Without a box: what follows the last "answer is", "answer:" or "####" on its line; a text of one short line is the
    answer itself. None if there is no answer.
    """
    text = strip_reasoning(text)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed or None
    stated = _STATED.findall(text)
    if stated:
        return stated[-1].strip(" \t*.") or None
    return text if text and "\n" not in text and len(text) <= 40 else None


def number(expression: str) -> Fraction | None:
    r"""The exact value of a plain integer, decimal or fraction in any usual LaTeX dress; None for everything else.

    `042`, `42.0`, `1{,}234`, `\frac{84}{2}`, `\text{(B) } 12`, `x = 42`, `336^\circ`, `\$18` are plain numbers.
    """
    text = _without_label(expression)
    left, equals, right = text.rpartition("=")
    if equals and not _SEVERAL.search(left):
        text = right
    text = _UNIT.sub("", _undressed(text))
    if (match := _DECIMAL.fullmatch(text)) is not None:
        sign, whole, fraction, bare = match.groups()
        digits = f"{re.sub('[{},]', '', whole or '0')}.{fraction or bare or '0'}"
        return Fraction(sign + digits) if len(digits) <= MAX_DIGITS else None
    if (match := _RATIO.fullmatch(text)) is not None:
        sign, top, bottom = match[1], match[2] or match[3] or match[6], match[4] or match[5] or match[7]
        if len(top) <= MAX_DIGITS and len(bottom) <= MAX_DIGITS and int(bottom):
            return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
    return None


def canonical(expression: str) -> str:
    """One spelling for answers that are plainly the same, for voting: exact numbers by value, the rest by its text."""
    value = number(expression)
    return str(value) if value is not None else _undressed(expression)


def matches(expression: str, truth: str, limit_s: float) -> bool | None:
    """Whether an extracted answer equals the ground truth; None when `limit_s` seconds did not suffice to decide.

    A truth such as `080 or 081 (both were accepted)` accepts either; an answer that offers several values is wrong.
    """
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
        return _label(expression) == truth
    found, wanted = number(expression), number(truth)
    if found is not None and wanted is not None:
        return found == wanted
    if _undressed(expression) == _undressed(truth):
        return True
    return verifier.shared().check(_without_label(expression), truth, limit_s)


def _undressed(expression: str) -> str:
    """Without dollar signs, spacing, sizing commands, wrappers and a final full stop."""
    text = expression.strip().replace("−", "-").replace(r"\$", "").replace("$", "")
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text)
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = _DIGIT_GROUPS.sub(",", _SPACING.sub(" ", _WRAPPER.sub("", text))).replace(" ", "")
    text = text.rstrip(".")
    while text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1]
    return text


def _without_label(expression: str) -> str:
    r"""Drop a leading choice label, `\text{(B) } 12` or `(B) 12`, if something follows it."""
    text = expression.strip().strip("$").strip()
    if (inside := _LABEL_INSIDE.match(text)) is not None:
        return text[inside.end() :].replace("}", "", 1).strip()
    match = _LABEL.match(text)
    return text[match.end() :].strip() if match and match.end() < len(text) else text


def _label(expression: str) -> str | None:
    text = expression.strip().strip("$").strip()
    match = _LABEL.match(text) or _LABEL_INSIDE.match(text)
    if match is not None:
        return next(group for group in match.groups() if group).upper()
    bare = _undressed(text).strip("(){}.")
    return bare.upper() if re.fullmatch(r"[A-Ea-e]", bare) else None
