r"""How final answers are written: one spelling for the many dresses of LaTeX, and plain numbers read exactly. Pure."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 100
_SYMBOLS = str.maketrans(
    dict.fromkeys("−–—‐‑‒﹣－", "-")
    | {"×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "≈": r"\approx "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "}
    | {"°": r"^\circ ", "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}"}
)
_SPACING = re.compile(r"\\[hv]space\*?\s*\{[^{}]*\}|(?<!\\)\\[,;:!> ]|\\q?quad(?![a-zA-Z])|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])")
_WRAPPER = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|bf|rm)(?![a-zA-Z])"
_WRAPPED = re.compile(rf"{_WRAPPER}\s*\{{([^{{}}]*)\}}")
_LABEL = re.compile(r"\(?([A-Ea-e])\)|([A-E])[.:](?=\s|$)")
_PERCENT = re.compile(r"(?:\\?%| ?percent)$")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)$")
_UNIT = re.compile(
    r"(?:(?<=[\d})])|(?<=\\pi)|(?<=\\circ)) ?(?<![A-Za-z])([A-Za-z]+(?:[ /]+[A-Za-z]+){0,3}\.?)(?: ?\^ ?\{?\d\}?)?$"
)
_MEASURES = re.compile(
    r"mm|cm|dm|m|km|in|ft|yd|mi|mg|g|kg|lb|oz|ml|cl|l|L|s|sec|min|h|hr|ms|Hz|N|J|W|kW|Pa|V|A|K|C|F|mol|rad|"
    r"deg|mph|inch|foot|feet|yard|mile|meter|metre|centimeter|centimetre|millimeter|kilometer|kilometre|"
    r"gram|kilogram|pound|ounce|liter|litre|gallon|second|minute|hour|day|week|month|year|degree|radian|"
    r"dollar|cent|euro|unit|people|children|men|women"
)
_OF_MEASURES = re.compile(r"square|cubic|sq|cu|per|squared|cubed|a|an|of")
_NOT_UNITS = re.compile(
    r"is|was|this|its|plus|minus|times|guess|perhaps|always|sometimes|yes|besides|equals|means|stands|else|"
    r"less|tens|dozens|hundreds|thousands|millions|billions|trillions|halves|thirds|quarters|fourths|"
    r"fifths|sixths|sevenths|eighths|ninths|tenths|hundredths|thousandths|ones|twos|others"
)
"""Words in s that a number is not counted in, or that change it."""
_INTEGER = r"\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+"
_DECIMAL = re.compile(rf"([+-]?)(?:({_INTEGER})(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d{{1,2}}))?")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline(?:\{(\d+)\}|(\d))")
_RATIO = re.compile(r"([+-]?)(\d*)\\frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d))")
_SLASH = re.compile(r"([+-]?)(?:(\d+) )?(\d+) ?/ ?(\d+)")
_SEVERAL = re.compile(r"[,;<>!]|\\(?:[gl]eq?|neq?|or|lor|text)(?![a-zA-Z])|\b(?:and|or)\b")
_CONSTANT = re.compile(r"\\(?:frac|sqrt|pi|cdot|times|div|binom|pm|circ|overline|infty)(?![a-zA-Z])")
EQUALS = re.compile(r"=|\\approx(?![a-zA-Z])")


def tidy(expression: str) -> str:
    """ASCII LaTeX without dollar signs, sizes, wrappers, labels of a choice and final stops; single spaces."""
    text = "".join(c for c in expression if unicodedata.category(c) != "Cf").translate(_SYMBOLS)
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text.strip()).replace(r"\$", "").replace("$", "")
    text = _SPACING.sub(" ", _SIZES.sub("", text))
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text.replace(r"\varnothing", r"\emptyset"))
    text = re.sub(r"sqrt ?\(([^()]*)\)", r"sqrt{\1}", text)
    text = re.sub(r"(?<![\\a-zA-Z])(pi|sqrt)(?![a-zA-Z])", r"\\\1 ", text)
    text = re.sub(rf"^{_WRAPPER}", "", " ".join(_unwrapped(text).split()))
    text = _without_label(re.sub(r"(?<![.,;])[.,;]$", "", text.strip()).strip())
    while text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1].strip()
    return text


def compact(expression: str) -> str:
    """`tidy` without any space: equal for answers that are written alike."""
    return tidy(expression).replace(" ", "")


def number(expression: str) -> Fraction | None:
    r"""The exact value of a plain integer, decimal or fraction in any usual LaTeX dress; None for everything else.

    `042`, `42.0`, `1{,}234`, `\frac{84}{2}`, `3 1/2`, `1.5e3`, `0.\overline3`, `\text{(B) } 12`, `x = 42`, `336^\circ`,
    `\$18`, `18\text{ cm}` are plain numbers; what contradicts itself (`41 = 42`) or says more (`5\text{ or }6`) is not.
    """
    *left, last = EQUALS.split(tidy(expression))
    value = _value(last)
    if left and (any(map(_SEVERAL.search, left)) or is_constant(left[0]) or value is None):
        return None
    return value if all(_value(part) in (None, value) for part in left) else None


def is_constant(part: str) -> bool:
    """Whether a side of an equation names no unknown."""
    return bool(part.strip()) and not re.search("[A-Za-z]", _CONSTANT.sub("", without_unit(part)))


def percentage(expression: str) -> Fraction | None:
    r"""The plain number in front of a percent sign, `50` of `50\%`."""
    text = tidy(expression)
    bare = _PERCENT.sub("", text)
    return number(bare) if bare != text else None


def label(expression: str) -> str | None:
    """The letter of a choice from A to E, with or without what it stands for."""
    text = " ".join(_unwrapped(_SPACING.sub(" ", expression.replace("$", ""))).split())
    if (match := _LABEL.match(text)) is not None:
        return (match[1] or match[2]).upper()
    bare = text.strip("(){}. ")
    return bare.upper() if re.fullmatch(r"[A-Ea-e]", bare) else None


def without_unit(text: str) -> str:
    """`18` of `18 cm^2`, `18 apples`, `18^\\circ`: a measure or a plural that things are counted in, no other word."""
    text = _DEGREES.sub("", text.strip())
    match = _UNIT.search(text)
    if match is None:
        return text
    words = re.split(r"[ /]+", match[1].rstrip("."))
    named = [word for word in words if not _OF_MEASURES.fullmatch(word)]
    return _DEGREES.sub("", text[: match.start()].strip()) if named and all(map(_is_unit, named)) else text


def _is_unit(word: str) -> bool:
    plural = len(word) > 3 and word.endswith("s") and not _NOT_UNITS.fullmatch(word.lower())
    return plural or any(map(_MEASURES.fullmatch, (word, word.lower() if len(word) > 1 else word)))


def _value(text: str) -> Fraction | None:
    text = without_unit(text)
    if (match := _SLASH.fullmatch(text)) is not None:
        return _ratio(match[1], match[2], match[3], match[4])
    text = re.sub(r"(?<=\d) +(?=\d)", ",", text).replace(" ", "")
    if (match := _DECIMAL.fullmatch(text)) is not None:
        sign, whole, fraction, bare, power = match.groups()
        digits = f"{re.sub('[{},]', '', whole or '0')}.{fraction or bare or '0'}"
        return Fraction(f"{sign}{digits}e{power or 0}") if len(digits) <= MAX_DIGITS else None
    if (match := _REPEATING.fullmatch(text)) is not None and len(text) <= MAX_DIGITS:
        sign, whole, fixed, period = match[1], match[2] or "0", match[3], match[4] or match[5]
        value = Fraction(f"{whole}.{fixed or 0}") + Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
        return -value if sign == "-" else value
    if (match := _RATIO.fullmatch(text)) is not None:
        return _ratio(match[1], match[2], match[3] or match[4], match[5] or match[6])
    return None


def _ratio(sign: str, whole: str | None, top: str, bottom: str) -> Fraction | None:
    """Of a fraction or a mixed number."""
    if max(len(whole or ""), len(top), len(bottom)) > MAX_DIGITS or not int(bottom):
        return None
    return (int(whole or 0) + Fraction(int(top), int(bottom))) * (-1 if sign == "-" else 1)


def _unwrapped(text: str) -> str:
    """Without text commands, however nested: the innermost goes first."""
    while (inner := _WRAPPED.sub(r" \1 ", text)) != text:
        text = inner
    return text


def _without_label(text: str) -> str:
    """Drop a leading choice label, `(B) 12` or `C. 15`, if something follows it."""
    match = _LABEL.match(text)
    rest = text[match.end() :].lstrip(" .:~") if match else ""
    return rest or text
