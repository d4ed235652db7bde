"""Episodes on disk: one JSON object a line, exact enough to train from (floats survive the round trip)."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mappa.errors import ConfigError
from mappa.types import Action, Episode, Grade, Message, StopReason, Task, ToolRun


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_episodes(path: Path, header: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> None:
    write_lines(path, [header, *episodes])


def read_episodes(path: Path, header: Mapping[str, Any] | None = None) -> list[Episode] | None:
    """What `write_episodes` wrote under exactly this header; None if there is no file, or it is of other weights.

    Args:
        header: None = under any.
    """
    if not path.is_file():
        return None
    with path.open() as file:
        lines = [json.loads(line) for line in file]
    if not lines or (header is not None and lines[0] != dict(header)):
        return None
    return [from_json(line) for line in lines[1:]]


def stored_files(run: str | Path, seats: Collection[str] | None = None) -> list[Path]:
    """The files of a run's episodes, in the order of its epochs.

    Args:
        run: its folder, or the folder of the files.
        seats: of the team that is to learn from them; None = any.

    Raises:
        ConfigError: there are none, or another team played them.
    """
    run = Path(run)
    files = sorted([*run.glob("epoch=*.jsonl"), *(run / "episodes").glob("epoch=*.jsonl")])
    if not files:
        raise ConfigError(f"data.stored={run} holds no episodes (epoch=NNNN.jsonl, in it or in its episodes/)")
    with files[0].open() as file:
        file.readline()
        first = json.loads(file.readline() or '{"actions": []}')
    spoke = {action.get("seat") or action["agent"] for action in first["actions"]}
    if not spoke or (seats is not None and not spoke <= set(seats)):
        raise ConfigError(
            f"data.stored={run}: its seats are {', '.join(sorted(spoke)) or 'none'}, this team's are "
            f"{', '.join(seats or ())}; take the team that played it"
        )
    return files


def to_json(episode: Episode) -> dict[str, Any]:
    return asdict(episode)


def from_json(data: Mapping[str, Any]) -> Episode:
    """Inverse of `to_json`; fields added for the reader (verdicts, advantages) are ignored.

    Files of runs from before there were seats and branches are read, too.
    """
    return Episode(
        id=data["id"],
        task=Task(**data["task"]),
        seed=data["seed"],
        actions=tuple(_action(action) for action in data["actions"]),
        answer=data["answer"],
        grade=Grade(**data["grade"]) if data["grade"] is not None else None,
        files={agent: tuple(names) for agent, names in data["files"].items()},
        error=data["error"],
        seconds=data["seconds"],
        parent=data.get("parent"),
        shared=data.get("shared", 0),
    )


def _action(data: Mapping[str, Any]) -> Action:
    return Action(
        id=data["id"],
        agent=data["agent"],
        role=data["role"],
        turn=data["turn"],
        messages=tuple(Message(**message) for message in data["messages"]),
        prompt_ids=tuple(data["prompt_ids"]),
        completion_ids=tuple(data["completion_ids"]),
        logprobs=tuple(data["logprobs"]),
        stop_reason=StopReason(data["stop_reason"]),
        text=data["text"],
        version=data["version"],
        tool=ToolRun(**data["tool"]) if data["tool"] is not None else None,
        files=tuple(data["files"]),
        seat=data.get("seat", ""),
        plain_ids=tuple(data["plain_ids"]) if data.get("plain_ids") is not None else None,
        probe=data.get("probe"),
    )
