"""What agents and judges are told of the places where code ran: the same on every machine, and nothing to fall for."""

from __future__ import annotations

import re
import site
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox import ExecutionResult

_FOLDERS = {PurePath(sysconfig.get_path("stdlib")), *map(PurePath, site.getsitepackages())}
_SPELLINGS = {f"~/{folder.relative_to(parent)}/" for folder in _FOLDERS for parent in folder.parents}  # by IPython
_SPELLINGS |= {f"{folder}/" for folder in _FOLDERS}
_LIBRARY = re.compile("|".join(map(re.escape, sorted(_SPELLINGS, key=len, reverse=True))))
_CELL = re.compile(r"(?<![^\s\"])[^\s\"]*/ipykernel_\d+/\d+\.py")
"""Starts only where a word does: from every letter of a long word it would take quadratic time."""
NAMES = 200
"""File names that are told of one list."""
_NAME_CHARS = 200


def located(result: ExecutionResult) -> ExecutionResult:
    """Warnings and tracebacks name files as they are imported (`sklearn/base.py`, `<cell>`)."""
    return replace(result, stderr=_located(result.stderr), traceback=_located(result.traceback))


def _located(text: str) -> str:
    return _CELL.sub("<cell>", _LIBRARY.sub("", text))


def told_names(names: Iterable[str], clean: Callable[[str], str]) -> tuple[str, ...]:
    """File names as they may stand in a prompt: sorted, one line each, at most `NAMES`.

    Args:
        clean: removes what a tokenizer would take for more than text.
    """
    short = sorted(name for name in names if len(name) <= _NAME_CHARS)[:NAMES]
    shown = (clean("".join(c if c.isprintable() else "\ufffd" for c in name)) for name in short)
    return tuple(dict.fromkeys(filter(None, shown)))
