"""The trajectory page: one self-contained HTML file, from a glance at the run down to each token's advantage.

Agents' text is never trusted: it travels compressed, in base64, and the page's script puts it on the screen as text
alone; a content security policy forbids every script but the page's own, and the network.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
import secrets
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mappa.report.detail import Pieces, detail, token_pieces
from mappa.report.glance import glance
from mappa.report.records import Row, Run
from mappa.report.telling import WHY, before_and_after, chosen, telling

MOST_EPISODES = 2000
MOST_BYTES = 9_500_000
"""Of the page; the charting library takes about two million of them."""
_CHUNK = 40
"""Episodes that are packed, and unpacked, together."""
_SHAPES = {"Debate": "debate", "Dialogue": "dialogue"}
"""Class of a team -> how its episodes are drawn; any other's are a column of actions."""


def write_page(run: Run, path: Path, other: Run | None = None, pieces: Pieces | None = None, live: bool = False) -> int:
    """Write the page atomically; returns how many of the run's episodes it holds.

    Args:
        other: an earlier run, to say what changed against it.
        pieces: cuts completions into tokens; None = they are shown whole.
        live: it asks its server for a newer one.
    """
    shown, chunks = _pack(run, pieces)
    html = _render(run, other, shown, chunks, live)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return len(shown)


def model_pieces(run: Run) -> Pieces | None:
    """By the tokenizer of the run's model; None where that is not on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from tokenizers import Tokenizer

    found: Path | str | None = Path(run.model).expanduser() / "tokenizer.json"
    if not found.is_file():
        try:
            found = try_to_load_from_cache(run.model, "tokenizer.json")
        except HFValidationError:  # a folder that is gone
            return None
        if not isinstance(found, str):
            return None
    tokenizer = Tokenizer.from_file(str(found))
    return token_pieces(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))


# ---------------------------------------------------------------------- what it holds
def _pack(run: Run, pieces: Pieces | None) -> tuple[list[Row], list[str]]:
    """The rows that have room, in order of worth, and their episodes in compressed chunks."""
    room = MOST_BYTES - len(_plotly()) - 400_000
    shown: list[Row] = []
    chunks: list[str] = []
    wanted = chosen(run.rows, MOST_EPISODES)
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        chunk = pack([detail(row.line(), pieces) for row in part])
        room -= len(chunk) + 300 * len(part)
        if room < 0:
            break
        shown += part
        chunks.append(chunk)
    return shown, chunks


def pack(value: Any) -> str:
    """JSON, compressed, in base64: no character of it means anything to HTML. What is no number is null, as in JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), 6, mtime=0)).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(found) for key, found in value.items()}
    return [_finite(found) for found in value] if isinstance(value, list | tuple) else value


def _listed(run: Run, shown: Sequence[Row]) -> Iterator[dict[str, Any]]:
    why, pairs = telling(run.rows), before_and_after(run.rows)
    rank = {key: place for place, key in enumerate(why)}
    kept = {row.key for row in shown}
    for place, row in enumerate(shown):
        yield {
            "key": row.key,
            "id": row.id,
            "set": row.set,
            "epoch": row.epoch,
            "task": row.task,
            "kind": row.kind,
            "question": row.question,
            "answer": row.answer,
            "grade": row.grade,
            "error": row.error,
            "truncated": row.truncated,
            "toolFailed": row.tool_failed,
            "actions": row.actions,
            "tokens": row.tokens,
            "rewards": {agent: round(value, 3) for agent, value in row.rewards.items()},
            "advantage": None if row.advantage is None else round(row.advantage, 3),
            "parent": row.parent,
            "why": why.get(row.key, []),
            "rank": rank.get(row.key, len(rank) + place),
            "before": pairs.get(row.key) if pairs.get(row.key) in kept else None,
            "at": [place // _CHUNK, place % _CHUNK],
        }


def _render(run: Run, other: Run | None, shown: Sequence[Row], chunks: Sequence[str], live: bool) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mappa.report", "template"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    team = str(run.config.get("team", {}).get("_target_", "")).rpartition(".")[2]
    episodes = list(_listed(run, shown))
    seen = glance(run, other)
    data = {
        "episodes": episodes,
        "shape": _SHAPES.get(team, "column"),
        "charts": seen.pop("charts"),
        "why": [why for why in WHY if any(why in episode["why"] for episode in episodes)],
        "weights": "credit" not in run.config.get("objective", {}),
        "stamp": stamp(run.folder) if live else None,
    }
    return environment.get_template("page.html").render(
        **seen,
        shown=len(shown),
        stored=len(run.rows),
        data=pack(data),
        chunks=chunks,
        plotly=_plotly(),
        style=_source("page.css"),
        script="".join(map(_source, ("charts.js", "episode.js", "page.js"))),
        nonce=secrets.token_urlsafe(16),
        live=live,
    )


def stamp(folder: Path) -> str:
    """Changes whenever what the page is made of does."""
    made_of = [
        *folder.glob("episodes/*.jsonl"),
        *folder.glob("validation/transcripts/*.jsonl"),
        folder / "summary.json",
    ]
    return str(max((path.stat().st_mtime_ns for path in made_of if path.is_file()), default=0))


def _source(name: str) -> str:
    return (files("mappa.report") / "template" / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """The charting library's own script, packed as the episodes are."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()
