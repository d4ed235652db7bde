"""Evidence for the judge's tests, with only the fields that matter to them."""

from __future__ import annotations

from mappa.judge.base import Evidence
from mappa.types import Action, Episode, Message, StopReason, Task, ToolRun


def action(agent: str = "solver", text: str = "x = 2", **fields) -> Action:
    fields = {
        "id": "t1/0",
        "role": "Problem Solver",
        "turn": 0,
        "messages": (Message("system", "You solve."), Message("user", "What is 1 + 1?")),
        "stop_reason": StopReason.STOP,
    } | fields
    return Action(agent=agent, text=text, prompt_ids=(1,), completion_ids=(2,), logprobs=(-0.1,), version=0, **fields)


def tool(text: str, status: str = "ok", **fields) -> ToolRun:
    return ToolRun(code="print(1)", text=text, status=status, seconds=1.0, **fields)


def evidence(text: str = "x = 2", task: Task | None = None, **fields) -> Evidence:
    """One action that is judged by itself; different texts are different requests."""
    return Evidence(task or Task("t1", "What is 1 + 1?", answer="2"), (action(text=text, **fields),), 0)


def episode(actions: tuple[Action, ...], task: Task, **fields) -> Episode:
    return Episode(id="t1", task=task, seed=0, actions=actions, **({"answer": "2", "grade": None} | fields))
