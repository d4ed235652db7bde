"""A stored episode -> what the page shows of it. Pure."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sandbox.kernel.text import head_tail

LONGEST_TEXT, LONGEST_COMPLETION = 6000, 3000
"""Characters of a prompt's message or a tool's output, and tokens of a completion; head and tail are kept."""
LOW = 5.0
"""Judge scores on 0-10 below which an action may be to blame for what failed after it."""
_LONGEST_CHARACTER = 8
"""Tokens; past them what cannot be read is shown as such."""

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids -> their texts, which together are the text of all."""


def detail(episode: Mapping[str, Any], pieces: Pieces | None) -> dict[str, Any]:
    """Everything of one episode that can be read; `pieces` None = the tokenizer is not at hand."""
    blamed = later_failures(episode)
    return {
        "question": head_tail(episode["task"]["question"], LONGEST_TEXT),
        "key": episode["task"]["answer"],
        "said": head_tail(episode["answer"] or "", LONGEST_TEXT),
        "grade": episode["grade"],
        "error": episode["error"],
        "seconds": round(episode["seconds"], 2),
        "shared": episode.get("shared", 0),
        "actions": [_action(action, blamed.get(action["id"]), pieces) for action in episode["actions"]],
    }


def _action(action: Mapping[str, Any], failure: str | None, pieces: Pieces | None) -> dict[str, Any]:
    tool, verdict, advantages = action["tool"], action.get("verdict"), action.get("advantages")
    found = {
        "id": action["id"],
        "seat": action.get("seat") or action["agent"],
        "agent": action["agent"],
        "turn": action["turn"],
        "version": action["version"],
        "stop": action["stop_reason"],
        "prompt": [[m["role"], head_tail(m["content"], LONGEST_TEXT)] for m in action["messages"]],
        "prompt_tokens": len(action["prompt_ids"]),
        "tokens": len(action["completion_ids"]),
        "files": list(action["files"]),
        "advantage": round(statistics.fmean(advantages), 3) if advantages else None,
        "hinted": action.get("plain_ids") is not None,
        "failure": failure,
    }
    if tool is not None:
        shown = {key: head_tail(tool[key], LONGEST_TEXT) for key in ("code", "text")}
        found["tool"] = {**shown, "status": tool["status"], "seconds": tool["seconds"], "restarted": tool["restarted"]}
    if verdict is not None:
        found["verdict"] = {key: verdict[key] for key in ("score", "reason", "judge", "cost")}
    return found | _completion(action, pieces)


def _completion(action: Mapping[str, Any], pieces: Pieces | None) -> dict[str, Any]:
    """Tokens with their log-probabilities and advantages; without a tokenizer the text as it is."""
    ids = action["completion_ids"]
    if pieces is None:
        return {"text": head_tail(action["text"], 4 * LONGEST_COMPLETION)}
    kept = list(range(len(ids)))
    if len(ids) > LONGEST_COMPLETION:
        half = LONGEST_COMPLETION // 2
        kept = [*range(half), *range(len(ids) - half, len(ids))]
    texts = pieces([ids[i] for i in kept])
    found = {"pieces": texts, "logprobs": [round(action["logprobs"][i], 2) for i in kept]}
    if len(kept) < len(ids):
        found["omitted"] = len(ids) - len(kept)
    advantages = action.get("advantages")
    if advantages:
        values = [round(advantages[i], 2) for i in kept]
        found["advantages"] = values if max(values) > min(values) else values[:1]
    return found


def later_failures(episode: Mapping[str, Any]) -> dict[str, str]:
    """Action id -> id of the first later action of another seat whose code failed, or `grade` where none did.

    Of actions that were judged low although their own code ran: what they were judged low for broke later.
    """
    actions, grade, found = episode["actions"], episode["grade"], {}
    for index, action in enumerate(actions):
        score = (action.get("verdict") or {}).get("score")
        fine = action["tool"] is not None and action["tool"]["status"] == "ok"
        if score is None or score >= LOW or not fine:
            continue
        failed = (a["id"] for a in actions[index + 1 :] if a["tool"] is not None and a["tool"]["status"] != "ok")
        failure = next(failed, None)
        if failure is None and (episode["error"] or (grade is not None and grade["score"] < LOW / 10)):
            failure = "grade"
        if failure is not None:
            found[action["id"]] = failure
    return found


def token_pieces(decode: Callable[[list[int]], str]) -> Pieces:
    """By what each token adds to the one before; those that end within a character are joined with the next."""

    @functools.cache
    def added(before: tuple[int, ...], group: tuple[int, ...]) -> str:
        return decode([*before, *group])[len(decode(list(before))) :]

    def pieces(ids: Sequence[int]) -> list[str]:
        texts: list[str] = []
        before: tuple[int, ...] = ()
        group: tuple[int, ...] = ()
        for index, token in enumerate(ids):
            group = (*group, token)
            text = added(before, group)
            if text.endswith("\ufffd") and len(group) < _LONGEST_CHARACTER and index + 1 < len(ids):
                texts.append("")
                continue
            texts.append(text)
            before, group = group, ()
        return texts

    return pieces
