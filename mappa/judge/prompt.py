"""From evidence to the messages a judge is sent. Pure: what is said is in conf, what is shown is decided here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from mappa.errors import ConfigError
from mappa.judge.base import Evidence
from mappa.text import check_placeholders, fill, head_tail
from mappa.types import Action, Message

ChatMessages = list[dict[str, str]]

PLACEHOLDERS = {
    "task": "what the team was asked",
    "kind": "the task's stratum",
    "agent": "name of the agent to be scored",
    "role": "its job in one line",
    "turn": "which turn of the agent this is, from 1",
    "rubric": "what is expected of this agent: `rubrics[agent]`, else `rubrics.default`",
    "input": "the whole conversation that the agent saw",
    "output": "what it wrote",
    "feedback": "what its code printed or raised, head and tail",
    "files_available": "files it could read, and who saved them",
    "files_saved": "files that this action created or changed",
    "earlier": "who acted before, in a line each",
    "later": "what the team did afterwards (judge.when=episode)",
    "outcome": "how the episode ended (judge.when=episode)",
    "truth": "the reference answer (judge.sees_ground_truth)",
}
_CONTROL = re.compile(r"<\||\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>", re.IGNORECASE)


class Prompt:
    """Templates and rubrics of one team, and how much of everything is shown."""

    def __init__(
        self,
        system: str,
        user: str,
        correction: str,
        rubrics: Mapping[str, str],
        input_chars: int = 24_000,
        output_chars: int = 24_000,
        tool_chars: int = 4_000,
        later_chars: int = 2_000,
    ) -> None:
        """Each of `*_chars` keeps head and tail.

        Args:
            system: first message; may use the placeholders like `user`.
            user: the evidence, see `PLACEHOLDERS`.
            correction: sent once when a reply names no score.
            rubrics: seat, or kind of seat (`critic` for `critic_2`) -> what is expected; `default` for all others.
            input_chars: longest conversation shown.
            output_chars: longest agent output shown.
            tool_chars: longest tool feedback shown.
            later_chars: longest output of each later action shown.
        """
        if "default" not in rubrics:
            raise ConfigError("judge.prompt.rubrics needs an entry 'default' for agents that are not named")
        for name, template in (("system", system), ("user", user)):
            check_placeholders(template, PLACEHOLDERS, f"judge.prompt.{name}")
        self.correction = correction
        self._system = system
        self._user = user
        self._rubrics = dict(rubrics)
        self._input_chars = input_chars
        self._output_chars = output_chars
        self._tool_chars = tool_chars
        self._later_chars = later_chars
        settings = [system, user, correction, *(f"{k}={v}" for k, v in sorted(self._rubrics.items()))]
        settings += [str(n) for n in (input_chars, output_chars, tool_chars, later_chars)]
        self.id = hashlib.sha256("\0".join(settings).encode()).hexdigest()[:12]
        """Changes whenever the messages could."""

    def messages(self, evidence: Evidence, sees_ground_truth: bool) -> ChatMessages:
        """The system and user message for one action."""
        values = self._values(evidence, sees_ground_truth)
        return [
            {"role": "system", "content": fill(self._system, values).strip()},
            {"role": "user", "content": fill(self._user, values).strip()},
        ]

    def corrected(self, messages: ChatMessages, reply: str) -> ChatMessages:
        """The conversation that asks once more, after a reply without a score."""
        said = head_tail(clean(reply), self._later_chars).strip() or "(nothing)"
        return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": self.correction.strip()}]

    def _values(self, evidence: Evidence, sees_ground_truth: bool) -> dict[str, str]:
        action, task = evidence.action, evidence.task
        output = fence("output", head_tail(action.text, self._output_chars))
        if action.truncated:
            output += "\n(The output was cut off at the agent's token limit.)"
        return {
            "task": fence("task", task.question),
            "kind": clean(task.kind),
            "agent": clean(action.seat),
            "role": clean(action.role),
            "turn": str(action.turn + 1),
            "rubric": self._rubric(action.seat),
            "input": fence("input", head_tail(_conversation(action.messages), self._input_chars)),
            "output": output,
            "feedback": _feedback(action, self._tool_chars),
            "files_available": _files_available(evidence),
            "files_saved": _listed(action.files),
            "earlier": "\n".join(map(_line, evidence.before)) or "(none: this is the first action)",
            "later": self._later(evidence),
            "outcome": _outcome(evidence, sees_ground_truth),
            "truth": _truth(evidence, sees_ground_truth),
        }

    def _rubric(self, seat: str) -> str:
        """The seat's own, or that of its kind: `critic_2` is a `critic`."""
        kind = seat.rpartition("_")[0] if seat.rpartition("_")[2].isdigit() else seat
        return (self._rubrics.get(seat) or self._rubrics.get(kind) or self._rubrics["default"]).strip()

    def _later(self, evidence: Evidence) -> str:
        if evidence.episode is None:
            return "(not known yet)"
        parts = []
        for action in evidence.actions[evidence.index + 1 :]:
            saved = f"\nSaved: {_listed(action.files)}" if action.files else ""
            said = fence("output", head_tail(action.text, self._later_chars))
            told = "" if action.tool is None else f"\n{_feedback(action, self._later_chars)}"
            parts.append(f"{_line(action)}{saved}\n{said}{told}")
        return "\n\n".join(parts) or "(none: this was the last action)"


def clean(text: str) -> str:
    """Text that cannot act as a chat template's control tokens, and that can be encoded."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _CONTROL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def fence(name: str, text: str) -> str:
    """`text` between two marks that it cannot contain: they are made from its own hash."""
    text = clean(text).strip("\n")
    mark = hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:8]
    return f"<<{name} {mark}>>\n{text}\n<<end {mark}>>"


def _conversation(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _feedback(action: Action, limit: int) -> str:
    if action.tool is None:
        return "(no code was run)"
    run = action.tool
    restarted = "; the session was lost and started anew" if run.restarted else ""
    head = f"(status: {clean(run.status)}, {run.seconds:.0f} s{restarted})"
    return f"{head}\n{fence('feedback', head_tail(run.text, limit))}"


def _files_available(evidence: Evidence) -> str:
    """Given files, then what each agent saved before this action, in order of acting."""
    lines = [f"- given with the task: {_listed(tuple(sorted(evidence.task.files)))}"] if evidence.task.files else []
    saved: dict[str, dict[str, None]] = {}
    for action in evidence.before:
        saved.setdefault(action.seat, {}).update(dict.fromkeys(action.files))
    lines += [f"- saved by {clean(agent)}: {_listed(tuple(files))}" for agent, files in saved.items()]
    return "\n".join(lines) or "(none)"


def _listed(files: tuple[str, ...]) -> str:
    return ", ".join(clean(name).replace("\n", " ") for name in files) or "(none)"


def _line(action: Action) -> str:
    ran = "" if action.tool is None else f", ran code ({clean(action.tool.status)})"
    cut = ", cut off at its token limit" if action.truncated else ""
    return f"- {clean(action.seat)}, turn {action.turn + 1}{ran}{cut}"


def _outcome(evidence: Evidence, sees_ground_truth: bool) -> str:
    """How it ended; the grade, which comes from the hidden answer, only for a judge that sees the truth."""
    episode = evidence.episode
    if episode is None:
        return "(not known yet)"
    parts = [f"The episode ended early: {clean(episode.error)}"] if episode.error else []
    if episode.answer is None:
        parts.append("The team gave no final answer.")
    else:
        parts.append(f"The team's final answer:\n{fence('answer', head_tail(episode.answer, 2_000))}")
    if sees_ground_truth and episode.grade is not None:
        metrics = "".join(f", {clean(name)} {value:.4g}" for name, value in episode.grade.metrics.items())
        reason = f" ({clean(episode.grade.reason)})" if episode.grade.reason else ""
        parts.append(f"Graded against the hidden reference: {episode.grade.score:.4g} of 1{reason}{metrics}")
    return "\n".join(parts)


def _truth(evidence: Evidence, sees_ground_truth: bool) -> str:
    if not sees_ground_truth:
        return "(not shown)"
    if evidence.task.answer is None:
        return "(this task has no written reference answer)"
    return fence("reference", evidence.task.answer)
