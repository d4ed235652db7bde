"""From a judge's reply to a score, or to nothing. Pure: no network, no clock, no defaults.

A verdict carries the code that was made for this very request, so that nothing the agent wrote can be one, however the
judge quotes it. It is (a) a JSON object that stands alone, with `process_score` beside `"code": "<code>"` (or under the
key `process_score_<code>`), or (b) a line that is `PROCESS_SCORE_<code>: <number>` (or `<number>/10`) and nothing else.
Of several all must say the same; anything else is no score: a missing verdict costs one action, a wrong one teaches.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

LONGEST = 200_000
"""Characters; no judge's verdict is longer."""
_TAGS = r"think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_REASONED = re.compile(rf"\A.*</(?:{_TAGS})>", re.IGNORECASE | re.DOTALL)
_UNFINISHED = re.compile(rf"<(?:{_TAGS})>", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[a-z]*[ \t]*$", re.IGNORECASE | re.MULTILINE)
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}|(.)|$)', re.DOTALL)
_OBJECT = re.compile(r"^[ \t]*\{", re.MULTILINE)
_MOST_OBJECTS = 200
"""Where a runaway reply of nothing but braces stops being searched for JSON."""
_LINE = re.compile(
    r"^[ \t*_`\"'|<(\[#>•-]{0,20}process(?:\\?_|[ -])?score(?:\\?_|[ -])(?P<code>[0-9a-z]+)[*_`\"' \t]{0,9}"
    r"(?:\(\s?0\s?(?:-|–|to)\s?10\s?\)|\(out of 10\))?[*_`\"' \t]{0,9}(?:[:=：>|]|->|→|\bis\b)[\s*_`\"'$|<(\[{]{0,20}"
    r"(?:\\boxed\{)?(?P<number>[-−]?[ \t]?[0-9]{1,9}(?:\.[0-9]{1,9})?)[*_`\"']{0,9}"
    r"(?:\s{0,9}(?:/|out of)\s{0,9}(?P<scale>[0-9.]{1,9}))?"
    r"[ \t*_`\"'$|)\]}.]{0,20}(?:</process(?:\\?_|[ -])?score(?:\\?_|[ -])(?P=code)>[ \t*_`|]{0,20})?$",
    re.IGNORECASE | re.MULTILINE,
)
_VALUE = re.compile(r'(?<!\\)"process_score(?:_(?P<code>[0-9a-z]+))?"\s*:\s*"?(?P<number>[0-9.]+)')
_FULL_VALUE = re.compile(r"\s*(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?:/\s*10(?:\.0+)?)?\s*")

Distribution = Mapping[str, float]
"""Token text -> log-probability (natural), the chosen token included."""
MIN_MASS = 0.5
"""Least probability that the listed whole numbers must have together."""
MAX_AMBIGUOUS = 0.02
"""Most probability on a `1` that may have become either 1 or 10."""


@dataclass(frozen=True)
class Reading:
    """What a reply says."""

    score: float | None
    """0-10, or None: no verdict."""
    reason: str = ""
    """The judge's own words when it gave JSON; why there is no score when there is none."""
    span: tuple[int, int] | None = None
    """Where in the reply the number stands, for finding its tokens; None = at no single place."""


def read_score(text: str, code: str, cut_off: bool = False) -> Reading:
    """Read the score out of a judge's reply.

    Args:
        text: the reply.
        code: of this request; without it in the right place there is no verdict.
        cut_off: the reply ended at its token limit, so that a number at its very end may be the head of another.
    """
    if len(text) > LONGEST:
        return Reading(None, "the reply is too long to be a verdict")
    said, claims, spans, reason = _without_reasoning(text.replace("\r", " ")), [], [], ""
    if said is None:
        return Reading(None, "the reply ended inside its reasoning")
    if not said.strip():
        return Reading(None, "the reply is empty")
    for start, document in _documents(said):
        found = list(_scores(document, code))
        claims += [_number(value) for value in found]
        reason = reason or (_reason(document) if found else "")
        places = _VALUE.finditer(said, start) if found else ()
        spans += [match.span("number") for match in places if match["code"] in (None, code)]
    for match in _LINE.finditer(said):
        if match["code"].lower() != code:
            continue
        whole = match["scale"] is None or float(match["scale"].strip(".") or "nan") == 10
        ended = cut_off and match.end("number") == len(said.rstrip())
        claims.append(_number(match["number"]) if whole and not ended else None)
        spans.append(match.span("number"))
    if not claims:
        return Reading(None, "the reply names no score of its own")
    if None in claims:
        return Reading(None, "the reply's score is not a number from 0 to 10")
    if len(set(claims)) > 1:
        return Reading(None, "the reply names different scores")
    return Reading(claims[0], reason or said.strip(), spans[0] if len(spans) == 1 else None)


def _without_reasoning(text: str) -> str | None:
    """The text with all reasoning blanked out, every other character in its place; None = it never came out of it.

    A JSON object is taken as it is: what it quotes between tags is not its own reasoning.
    """
    if any(document for _, document in _documents(text, alone=True)):
        return text
    blank = _REASONED.sub(lambda match: " " * (len(match[0]) - 1) + "\n", text)
    return None if _UNFINISHED.search(blank) else blank


class _Pairs(list):
    """A JSON object as its pairs, so that a key given twice is seen twice."""


def _documents(text: str, alone: bool = False) -> Iterator[tuple[int, _Pairs]]:
    """JSON objects that begin and end a line (or, `alone`, the whole text), a code fence aside."""
    plain = _FENCE.sub(lambda match: " " * len(match[0]), text)
    plain = _ESCAPE.sub(lambda match: match[0] if match[1] is None else "/" + match[1], plain)  # e.g. LaTeX's
    decoder, end = json.JSONDecoder(object_pairs_hook=_Pairs, strict=False), 0
    for start in [match.end() - 1 for match in _OBJECT.finditer(plain)][:_MOST_OBJECTS]:
        if start < end or (alone and plain[:start].strip()):
            continue
        try:
            document, end = decoder.raw_decode(plain, start)
        except (ValueError, RecursionError):
            continue
        rest = plain[end:] if alone else plain[end:].partition("\n")[0]
        if not rest.strip():
            yield start, document


def _scores(document: object, code: str) -> Iterator[object]:
    """What stands under a score key that carries the code, at any depth."""
    if isinstance(document, _Pairs):
        coded = [value for key, value in document if key.strip().lower() == "code"] == [code]
        for key, value in document:
            name = re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).strip().lower())
            if name == f"process_score_{code}" or (coded and name == "process_score"):
                yield value
            else:
                yield from _scores(value, code)
    elif isinstance(document, list):
        for value in document:
            yield from _scores(value, code)


def _number(value: object) -> float | None:
    """A score from 0 to 10; strings must be a number and nothing else (`"8"`, `"8/10"`)."""
    if isinstance(value, str):
        match = _FULL_VALUE.fullmatch(value)
        value = float(match["number"]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= 10 else None


def _reason(document: _Pairs) -> str:
    named = ("reason", "reasoning", "explanation", "rationale")
    return next((v for k, v in document if k.strip().lower() in named and isinstance(v, str)), "")


# ---------------------------------------------------------------------- the expected score
def expected_score(text: str, tokens: Sequence[tuple[str, Distribution]], span: tuple[int, int]) -> float | None:
    """Mean of the whole numbers 0-10 under the distribution that the score at `span` was sampled from.

    Its mean beats its mode (arXiv 2503.03064). None wherever the distribution cannot be read exactly, and the written
    score stands.

    Args:
        text: the reply.
        tokens: the reply's tokens in order, each with its alternatives.
        span: where the number stands in `text`; only whole numbers (`8`, `10`) have a readable distribution.
    """
    number, place = text[slice(*span)], _place(text, tokens, span[0])
    if place is None or not (number.isascii() and number.isdigit()):
        return None
    said, following = tokens[place][0].strip(), tokens[place + 1] if place + 1 < len(tokens) else ("", {})
    mass = _whole_numbers(tokens[place][1])
    if said == "1" and number == "10" and following[0].rstrip() == "0":
        mass = _resolve_one(mass, following[1])
    elif said != number or following[0][:1].isdigit():
        return None
    elif mass.get(1, 0.0) > MAX_AMBIGUOUS and 10 not in mass:
        if number != "1" or not following[1]:
            return None
        mass = _resolve_one(mass, following[1])
    total = sum(mass.values())
    return sum(score * weight for score, weight in mass.items()) / total if total >= MIN_MASS else None


def _place(text: str, tokens: Sequence[tuple[str, Distribution]], offset: int) -> int | None:
    """Index of the token in which the character at `offset` stands, if it is the token's first but for spaces."""
    start = "".join(token for token, _ in tokens).find(text) + offset
    if start < offset or not text:
        return None
    for index, (token, _) in enumerate(tokens):
        if 0 <= start < len(token):
            return index if not token[:start].strip() else None
        start -= len(token)
    return None


def _whole_numbers(distribution: Distribution) -> dict[int, float]:
    """Probability of each whole number 0-10 that is one token; spaced variants are added up."""
    mass: dict[int, float] = {}
    for text, logprob in distribution.items():
        digits = text.strip()
        if digits.isascii() and digits.isdigit() and str(int(digits)) == digits and int(digits) <= 10:
            mass[int(digits)] = mass.get(int(digits), 0.0) + math.exp(logprob)
    return mass


def _resolve_one(mass: dict[int, float], following: Distribution) -> dict[int, float]:
    """Share the probability of a first digit `1` between 1 and 10, as the next token's distribution says."""
    zero = sum(math.exp(logprob) for text, logprob in following.items() if text.strip() == "0")
    one = mass.get(1, 0.0)
    return mass | {1: one * (1.0 - zero), 10: mass.get(10, 0.0) + one * zero}
