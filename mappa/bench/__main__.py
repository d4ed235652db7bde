"""Measure what a run is made of: `python -m mappa.bench [engine|update|epoch|judge|plan|all] [against=trl] [words]`.

    engine   the hf engine: tokens a second, and agents that share a batch
    update   loss and gradients: 1 to 8 agents at equal tokens, 1 to 8 turns an act, contexts from 16 to 16k
    epoch    one epoch of the quickstart by phase, kernels and judge included
    judge    64 episodes of 4 actions of 1 s, and a judge that takes 1 s
    plan     what mappa.plan says of an update's memory and time, beside what it takes, at several shapes

Words:
    shape=NAME     tiny (as shipped), qwen3_0_6b or qwen3_4b, with random weights (default tiny; on a GPU qwen3_4b)
    tokens=N       of an update (default 4096, on a GPU 16384)
    dtype=NAME     of the base: float32 or bfloat16 (default float32, on a GPU bfloat16)
    attention=NAME sdpa, eager or, on a GPU, flex_attention (default sdpa)
    repeats=N      of each measurement; the fastest counts (default 3)
    against=trl    also TRL's GRPO on the same model and as many completions, in turn (pip install 'mappa[bench]')
    to=FILE        where the numbers go as JSON (default outputs/bench.json)

A table is printed. Seconds are wall clock; beside them processor seconds, which other work on the machine changes less.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mappa.bench.shapes import SHAPES
from mappa.command import quiet, run_guarded, wants_help
from mappa.errors import ConfigError

ATTENTION = ("sdpa", "eager", "flex_attention")
PARTS = ("engine", "update", "epoch", "judge", "plan")
_SHORT = {"planned seconds": "planned s", "seconds": "s", "processor seconds": "CPU s", "computed/needed": "computed"}
"""Columns that would not fit a terminal."""
_WORDS = {
    "shape": None,
    "tokens": None,
    "dtype": None,
    "attention": "sdpa",
    "repeats": "3",
    "against": None,
    "to": "outputs/bench.json",
}


def read(argv: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """
    Raises:
        ConfigError: a word that there is not, or a value out of range.
    """
    parts, words = [], dict(_WORDS)
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals and key in (*PARTS, "all"):
            parts += PARTS if key == "all" else [key]
        elif equals and key in words:
            words[key] = value
        else:
            raise ConfigError(f"'{word}' is unknown; available: {', '.join((*PARTS, 'all'))}, {'=, '.join(words)}=")
    choices = {"shape": tuple(SHAPES), "dtype": ("float32", "bfloat16"), "attention": ATTENTION, "against": ("trl",)}
    for key, known in choices.items():
        if words[key] is not None and words[key] not in known:
            raise ConfigError(f"{key}={words[key]} is unknown; available: {', '.join(known)}")
    for key in ("tokens", "repeats"):
        if words[key] is not None and not (words[key].isdigit() and int(words[key]) > 0):
            raise ConfigError(f"{key}={words[key]} must be a whole number of at least 1")
    if words["against"] == "trl":
        from importlib.util import find_spec

        if find_spec("trl") is None:
            raise ConfigError("against=trl needs TRL: pip install 'mappa[bench]'")
    return list(dict.fromkeys(parts or (["epoch"] if words["against"] else PARTS))), words


def bench(argv: list[str]) -> dict[str, Any]:
    """All numbers, by part."""
    parts, words = read(argv)
    quiet()
    import torch

    from mappa.bench import parts as measured
    from mappa.bench.shapes import Setting

    on_gpu = torch.cuda.is_available()
    setting = Setting(
        shape=words["shape"] or ("qwen3_4b" if on_gpu else "tiny"),
        tokens=int(words["tokens"] or (16384 if on_gpu else 4096)),
        dtype=words["dtype"] or ("bfloat16" if on_gpu else "float32"),
        attention=words["attention"],
        repeats=int(words["repeats"]),
        device="cuda" if on_gpu else "cpu",
    )
    if not on_gpu:
        if setting.attention == "flex_attention":
            raise ConfigError("attention=flex_attention has no backward pass on the CPU")
        torch.set_num_threads(1)
    found: dict[str, Any] = {"setting": vars(setting) | {"machine": setting.machine()}}
    for part in parts:
        run: Callable[..., dict[str, Any]] = getattr(measured, part)
        found[part] = run(setting)
        show(part, found[part])
    if words["against"] == "trl":
        from mappa.bench.against_trl import compare

        found["against_trl"] = compare(setting.repeats)
        show("against_trl", found["against_trl"])
    path = Path(words["to"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def show(part: str, rows: dict[str, dict[str, float | None]]) -> None:
    """A table: one line a case, or a column where there are more numbers than cases. What is the same for all cases
    stands in the title."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows.values() for key, value in row.items() if value is not None))
    cells = {
        (name, key): "" if row.get(key) is None else _shown(row[key]) for name, row in rows.items() for key in columns
    }
    same = [key for key in columns if len(rows) > 1 and len({cells[name, key] for name in rows}) == 1]
    title = ", ".join([part.replace("_", " "), *(f"{key} {cells[next(iter(rows)), key]}" for key in same)])
    columns = [key for key in columns if key not in same]
    lines, across = (list(rows), columns) if len(columns) <= len(rows) else (columns, list(rows))
    table = Table(title=title, box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in across:
        table.add_column(_SHORT.get(column, column), justify="right")
    for line in lines:
        table.add_row(line, *(cells.get((line, key), cells.get((key, line))) for key in across))
    Console().print(table)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2g}" if value < 0.1 else f"{value:.3g}"


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(__doc__.strip())  # noqa: T201 command-line output
        return
    bench(sys.argv[1:])


if __name__ == "__main__":
    run_guarded(main)
