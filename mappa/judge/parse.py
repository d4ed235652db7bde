"""From a judge's reply to a score, or to nothing. Pure: no network, no clock, no defaults.

A number counts only where the reply *says* that it is the score: after the label `PROCESS_SCORE`, under the JSON key
`process_score`, or on a last line `Score: n`. Whenever it says so twice with different numbers, or with something that
is no number from 0 to 10, there is no score: a missing verdict costs one action, a wrong one teaches.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mappa.text import in_reasoning, strip_reasoning

_DRESSING = r"[\s*_`\"'$|<(\[{]*"
"""Markdown, quotes and brackets that models put between label and number."""
_SEPARATOR = rf"{_DRESSING}(?:[:=：]|\bis\b|→|->){_DRESSING}(?:\\boxed\{{)?"
_LABEL = re.compile(rf"(?<![A-Za-z0-9_-])process[ _-]?score{_SEPARATOR}", re.IGNORECASE)
_LAST_LINE = re.compile(rf"^[\s*_`#>-]*(?:final |overall )?score{_SEPARATOR}", re.IGNORECASE)
_VALUE = re.compile(r"(?P<number>(?:10(?:\.0+)?|[0-9](?:\.[0-9]+)?))(?![0-9]|\.[0-9])(?P<rest>[^\n]*)")
_SCALE = re.compile(r"^[\s*_`)]*(?:/|out of|of)\s*(?P<scale>[0-9]+(?:\.[0-9]+)?)?(?P<after>.?)", re.IGNORECASE)
_CONTINUES = re.compile(
    r"^(?:[A-Za-z0-9_%:]|[,+^][0-9])|^\s*(?:[-–—~…]|\.{2,}|to\b|or\b|and\b|±|\+/-)\s*[0-9]|^\s+[0-9]"
)
"""What may not follow the number: exponents, percents, decimal commas, ranges, a second number."""
_FULL_VALUE = re.compile(r"\s*(?P<number>[0-9.]+)\s*(?:/\s*10(?:\.0+)?)?\s*")
_MOST_BRACES = 200
"""Where a runaway reply of nothing but braces stops being searched for JSON."""
_KEYS = ("process_score", "score")


@dataclass(frozen=True)
class Reading:
    """What a reply says."""

    score: float | None
    """0-10, or None: no verdict."""
    reason: str = ""
    """The judge's own words when it gave JSON; why there is no score when there is none."""
    number: str = ""
    """The score as it was written, for finding its tokens."""


def read_score(text: str, cut_off: bool = False) -> Reading:
    """Read the score out of a judge's reply.

    Args:
        text: the reply.
        cut_off: the reply ended at its token limit, so that a number at its very end may be the head of another.
    """
    if in_reasoning(text):
        return Reading(None, "the reply ended inside its reasoning")
    text = strip_reasoning(text)
    if not text:
        return Reading(None, "the reply is empty")
    claims: list[tuple[float | None, str]] = []
    prose, reason = text, ""
    for start, end, document in _documents(text):
        found = list(_values(document, allow_short=_is_alone(text, start, end)))
        if found:
            claims += [_from_json(value) for value in found]
            prose = prose[:start] + " " * (end - start) + prose[end:]
            reason = reason or _reason(document)
    claims += list(_labelled(prose, cut_off))
    if not claims:
        return Reading(None, "the reply names no score")
    if any(score is None for score, _ in claims):
        return Reading(None, "the reply's score is not a number from 0 to 10")
    if len({score for score, _ in claims}) > 1:
        return Reading(None, "the reply names different scores")
    score, number = claims[-1]
    return Reading(score, reason or text, number)


def _labelled(text: str, cut_off: bool) -> Iterator[tuple[float | None, str]]:
    """Scores after `PROCESS_SCORE`, and on a last line `Score: n`."""
    for match in _LABEL.finditer(text):
        yield _from_text(text, match.end(), cut_off)
    last = text.rstrip().rpartition("\n")
    if match := _LAST_LINE.match(last[2]):
        yield _from_text(text, len(last[0]) + len(last[1]) + match.end(), cut_off)


def _from_text(text: str, start: int, cut_off: bool) -> tuple[float | None, str]:
    """The number written at `start`; None if what stands there is not one score from 0 to 10."""
    match = _VALUE.match(text, start)
    if match is None or (cut_off and match.end("number") == len(text)):
        return None, ""
    rest = match["rest"]
    if scale := _SCALE.match(rest):
        if scale["scale"] is None or float(scale["scale"]) != 10 or scale["after"] in ("/", "%"):
            return None, ""
    elif _CONTINUES.match(rest):
        return None, ""
    return float(match["number"]), match["number"]


def _from_json(value: object) -> tuple[float | None, str]:
    """A JSON value as a score; strings must be a number and nothing else (`"8"`, `"8/10"`)."""
    if isinstance(value, str):
        match = _FULL_VALUE.fullmatch(value)
        if match is None or match["number"].count(".") > 1 or match["number"].strip(".") == "":
            return None, ""
        value = float(match["number"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, ""
    if not math.isfinite(value) or not 0 <= value <= 10:
        return None, ""
    return float(value), f"{value:g}"


def _documents(text: str) -> Iterator[tuple[int, int, object]]:
    """Outermost JSON objects of `text` with their places."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False)
    position = text.find("{")
    for _ in range(_MOST_BRACES):
        if position < 0:
            return
        try:
            document, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        yield position, end, document
        position = text.find("{", end)


class _Pairs(list):
    """A JSON object as its pairs, so that a key given twice is seen twice."""


def _values(document: object, allow_short: bool) -> Iterator[object]:
    """Everything that stands under a score key, at any depth; plain `score` only in a reply that is one JSON object."""
    if isinstance(document, _Pairs):
        for key, value in document:
            name = re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).strip().lower())
            if name == _KEYS[0] or (allow_short and name == _KEYS[1]):
                yield value
            else:
                yield from _values(value, allow_short)
    elif isinstance(document, list):
        for value in document:
            yield from _values(value, allow_short)


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether the reply is nothing but this JSON object, a code fence aside."""
    around = text[:start] + text[end:]
    return re.sub(r"```(?:json)?", "", around, flags=re.IGNORECASE).strip() == ""


def _reason(document: object) -> str:
    if isinstance(document, _Pairs):
        for key, value in document:
            if key.strip().lower() in ("reason", "reasoning", "explanation", "rationale") and isinstance(value, str):
                return value
    return ""
