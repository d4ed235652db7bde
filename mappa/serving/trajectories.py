"""Stored episodes in the formats that other tools read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mappa.errors import ConfigError
from mappa.play.episodes import write_lines

Line = dict[str, Any]
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def openai(episode: Line) -> Iterator[Line]:
    """`{"messages": [...]}`: each action's conversation, its completion last."""
    for action in _own(episode):
        messages = [*action["messages"], {"role": "assistant", "content": action["text"]}]
        yield {"messages": [message for message in messages if message["content"]], "metadata": _about(episode, action)}


def sharegpt(episode: Line) -> Iterator[Line]:
    """`{"conversations": [{"from": "human" | "gpt" | "system", "value": ...}]}`, as `openai`."""
    for line in openai(episode):
        said = [{"from": _SHAREGPT[m["role"]], "value": m["content"]} for m in line["messages"]]
        yield {"id": line["metadata"]["action"], "conversations": said, "metadata": line["metadata"]}


def atif(episode: Line) -> Iterator[Line]:
    """One trajectory of the Agent Trajectory Interchange Format, v1.4: the task, then a step for each action.

    What a step's agent saw is in its `extra.messages`, since each seat has a conversation of its own.
    """
    steps = [{"step_id": 1, "source": "user", "message": episode["task"]["question"]}]
    for action in episode["actions"]:
        step: Line = {
            "step_id": len(steps) + 1,
            "source": "agent",
            "message": action["text"],
            "metrics": {
                "prompt_tokens": len(action["prompt_ids"]),
                "completion_tokens": len(action["completion_ids"]),
                "prompt_token_ids": action["prompt_ids"],
                "completion_token_ids": action["completion_ids"],
                "logprobs": action["logprobs"],
            },
            "extra": _about(episode, action) | {"messages": action["messages"]},
        }
        tool = action["tool"]
        if tool is not None:
            call = f"{action['id']}/tool"
            step["tool_calls"] = [
                {"tool_call_id": call, "function_name": "python", "arguments": {"code": tool["code"]}}
            ]
            step["observation"] = {"results": [{"source_call_id": call, "content": tool["text"]}]}
        steps.append(step)
    actions = episode["actions"]
    yield {
        "schema_version": "ATIF-v1.4",
        "session_id": episode["id"],
        "agent": {"name": "mappa", "version": version("mappa")},
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": sum(len(action["prompt_ids"]) for action in actions),
            "total_completion_tokens": sum(len(action["completion_ids"]) for action in actions),
            "total_steps": len(steps),
        },
        "extra": {key: episode.get(key) for key in ("task", "answer", "grade", "error", "parent", "shared")},
    }


FORMATS: dict[str, Callable[[Line], Iterator[Line]]] = {"openai": openai, "sharegpt": sharegpt, "atif": atif}


def write_trajectories(stored: Sequence[Path], target: Path, name: str) -> None:
    """Every episode of the files, as JSON lines.

    Raises:
        ConfigError: a file that is none of ours.
    """

    def lines() -> Iterator[Line]:
        for path in stored:
            with path.open() as file:
                file.readline()  # the header
                for line in file:
                    try:
                        yield from FORMATS[name](json.loads(line))
                    except (ValueError, KeyError, TypeError) as error:
                        raise ConfigError(f"{path} holds a line that is no episode: {error!r}") from error

    write_lines(target, lines())


def _own(episode: Line) -> list[Line]:
    """Without what was replayed, which is its parent's."""
    return episode["actions"][episode.get("shared", 0) :]


def _about(episode: Line, action: Line) -> Line:
    grade, verdict, advantages = episode["grade"], action.get("verdict") or {}, action.get("advantages")
    return {
        "action": action["id"],
        "task": episode["task"]["id"],
        "seat": action.get("seat") or action["agent"],
        "adapter": action["agent"],
        "score": verdict.get("score"),
        "reason": verdict.get("reason"),
        "advantage": statistics.fmean(advantages) if advantages else None,
        "grade": None if grade is None else grade["score"],
        "truncated": action["stop_reason"] == "length",
    }
