"""Pure string functions shared by agents, tasks and judges."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from mappa.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_FENCE = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(-?\d+|[A-Za-z](?![A-Za-z])))|\\.|[{}]", re.DOTALL)

REASONING = "<think>"
"""Opens the reasoning; the closing tag ends it, whether or not it was opened."""


def fill(template: str, values: Mapping[str, str]) -> str:
    r"""Replace every `{{name}}` in one pass; replaced text is not scanned again, single braces (`\boxed{}`) are text.

    Raises:
        KeyError: a placeholder has no value.
    """
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def check_placeholders(template: str, known: Collection[str], where: str) -> None:
    """Raise `ConfigError` if `template` uses a placeholder that is not in `known`."""
    unknown = sorted(set(_PLACEHOLDER.findall(template)) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown placeholder {{{{{unknown[0]}}}}}; available: {', '.join(sorted(known))}")


def strip_reasoning(text: str) -> str:
    """Drop everything up to the last closing tag, and from an opening one after it: that reasoning never ended."""
    return text.rpartition("</think>")[2].partition(REASONING)[0].strip()


def in_reasoning(text: str) -> bool:
    """Whether the text ends inside its reasoning."""
    return REASONING in text.rpartition("</think>")[2]


def code_blocks(text: str) -> str:
    """All fenced python blocks of `text` in order, joined into one cell; empty string if there is none."""
    return "\n".join(block.rstrip() for block in _FENCE.findall(text)).strip()


def last_boxed(text: str) -> str | None:
    r"""Content of the last-opened complete `\boxed{...}`, in one pass: endless unclosed boxes cost nothing.

    Escaped braces (`\{`) are text. As in TeX the box may do without braces: `\boxed2`.
    """
    opened: list[tuple[bool, int]] = []
    last: tuple[int, int] | None = None
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if match[1]:
            last = match.span(1)
        elif token.endswith("{") and token != r"\{":
            opened.append((token != "{", match.end()))
        elif token == "}" and opened:
            is_box, start = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = (start, match.start())
    return text[last[0] : last[1]].strip() if last is not None else None
