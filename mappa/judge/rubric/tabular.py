"""A deterministic, process-level judge for the data-science team: no model, no network, blame by the file trail.

Each action is scored by what it ran and left behind: did its code run, did its agent save what it has to, in the end.
A failure further down is put down to whoever caused it, by the evidence that the failure itself gives: the file that
was not there, the model that was never fitted, the feature that is the target, the rows that are gone. Who was blocked
by somebody else's fault is not at fault. What kernels print can be forged by agents' code: this judge is for teams
that learn to work, not for adversaries.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from mappa.errors import ConfigError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.types import Action, Verdict

_MISSING = re.compile(r"No such file or directory: '(?:[^']*/)?([^'/]+)'")
_MISMATCH = re.compile(r"seen at fit time|has \d+ features, but \w+ is expecting \d+")
_LENGTHS = re.compile(r"same length|does not match (?:length of index|index length)")
_DROPPING = {"dropna", "drop_duplicates", "head", "tail", "sample", "query", "truncate"}
_MASKS = {"notna", "notnull", "isin", "between", "isna", "isnull"}
BLAMED, BLOCKED, FAILED, KILLED, IDLE = 1.0, 5.0, 2.5, 0.5, 0.0
"""Scores on 0-10 of an action that: caused a later failure, was stopped by another's, failed by itself, lost the kernel
or ran out of time, did nothing."""


class RubricTabularJudge(BaseJudge):
    """Full marks 10: the code ran, all artifacts were saved, and nothing broke on them later."""

    def __init__(
        self,
        artifacts: Mapping[str, Sequence[str]],
        features: str = "X_train.pkl",
        model: str = "model.pkl",
        submission: str = "submission.csv",
        when: str = "episode",
    ) -> None:
        """Nothing is read.

        Args:
            artifacts: agent -> files it has to leave in the workspace, agents in acting order.
            features: the artifact whose agent answers for features that differ between training and test rows.
            model: the artifact whose agent answers for a model that was never fitted.
            submission: the artifact that the task grades.
            when: `episode`, or `action`: nobody is blamed for what breaks later.

        Raises:
            ConfigError: one of the three is nobody's artifact.
        """
        self._artifacts = {agent: tuple(files) for agent, files in artifacts.items()}
        self._owners = {name: agent for agent, names in self._artifacts.items() for name in names}
        for name in (features, model, submission):
            if name not in self._owners:
                raise ConfigError(f"judge: '{name}' is no agent's artifact; known: {', '.join(self._owners) or 'none'}")
        self._features, self._model, self._submission = self._owners[features], self._owners[model], submission
        self.when = When(when)
        self.id = "rubric-tabular-2"

    async def score(self, evidence: Evidence) -> Verdict:
        action = evidence.action
        if action.seat not in self._artifacts:
            return Verdict(None, f"no artifacts are known for agent '{action.seat}'", self.id)
        score, reason = self._step(evidence)
        for blamed, why in self._faults(evidence):
            if blamed == action.id and score > BLAMED:
                score, reason = BLAMED, why
        return Verdict(score, reason, self.id)

    def _step(self, evidence: Evidence) -> tuple[float, str]:
        """The action by itself."""
        action, run = evidence.action, evidence.action.tool
        saved = {f for a in (*evidence.before, action) if a.seat == action.seat for f in a.files}
        wanted = self._artifacts[action.seat]
        lacking = [name for name in wanted if name not in saved]
        if run is None and action.turn == 0:
            return IDLE, "nothing was run"
        if run is not None and run.status not in ("ok", "error"):
            return KILLED, f"the code did not finish: {run.status}"
        if run is not None and run.status == "error":
            blocker = self._blocker(action, evidence.before)
            if blocker is not None:
                return BLOCKED, f"stopped by a fault of {blocker.seat}"
            lines = run.text.strip().splitlines() or ["error"]
            return FAILED, f"the code failed: {lines[-1][:120]}"
        if not lacking:
            return 10.0, "all files were saved"
        share = 1.0 - len(lacking) / len(wanted)
        return 4.0 + 4.0 * share, f"not saved yet: {', '.join(lacking)}"

    def _blocker(self, action: Action, before: Sequence[Action]) -> Action | None:
        """Whose earlier action the failure of this one is put down to."""
        blamed = {agent for agent, _ in self._broken(action, before)} - {action.seat}
        return next((a for a in reversed(before) if a.seat in blamed), None)

    def _faults(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        """(id of the guilty action, why), over the whole episode as far as it is known."""
        actions = evidence.actions
        for index, action in enumerate(actions):
            if action.tool is not None and action.tool.status == "error":
                for agent, why in self._broken(action, actions[:index]):
                    if agent != action.seat:
                        yield self._guilty(actions[:index], agent), why
        if evidence.episode is not None:
            yield from self._unsaved(actions)
            yield from self._outcome(evidence)

    def _broken(self, action: Action, before: Sequence[Action]) -> Iterator[tuple[str, str]]:
        """(agent, why) for each fault of others that this failed run gives evidence of."""
        text = action.tool.text if action.tool is not None else ""
        there = {name for a in before for name in a.files}
        for name in _MISSING.findall(text):
            if name in self._owners and name not in there:
                yield self._owners[name], f"{name} was not there when {action.seat} needed it"
        if "NotFittedError" in text or "is not fitted yet" in text:
            yield self._model, "the saved model was never fitted"
        if _MISMATCH.search(text):
            yield self._features, "X_train and X_test do not have the same features"
        if _LENGTHS.search(text):
            dropped = _dropped_test_rows(before)
            if dropped is not None:
                yield dropped.seat, "rows of test.csv were dropped"

    def _guilty(self, before: Sequence[Action], agent: str) -> str:
        """The action to be blamed: the one that wrote the agent's artifacts last, or else its last one."""
        mine = [a for a in before if a.seat == agent]
        wrote = [a for a in mine if set(a.files) & set(self._artifacts[agent])]
        return (wrote or mine)[-1].id if mine else ""

    def _unsaved(self, actions: Sequence[Action]) -> Iterator[tuple[str, str]]:
        """Agents that stopped without their files, unless another's fault stopped them."""
        for agent, wanted in self._artifacts.items():
            mine = [a for a in actions if a.seat == agent]
            lacking = [name for name in wanted if not any(name in a.files for a in mine)]
            if not mine or not lacking:
                continue
            runs = [i for i, a in enumerate(actions) if a.seat == agent and a.tool is not None]
            if not runs or self._blocker(actions[runs[-1]], actions[: runs[-1]]) is None:
                yield mine[-1].id, f"stopped without saving {', '.join(lacking)}"

    def _outcome(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        """A submission that the task refuses is its writer's fault, or that of who dropped the rows it lacks."""
        grade = evidence.episode.grade
        wrote = [a for a in evidence.actions if self._submission in a.files]
        if grade is None or not wrote or grade.metrics.get("success", 1.0) > 0:
            return
        dropped = _dropped_test_rows(evidence.actions)
        if "misses" in grade.reason and "0 unknown" in grade.reason and dropped is not None:
            yield dropped.id, f"rows of test.csv were dropped: {grade.reason}"
        else:
            yield wrote[-1].id, grade.reason


def _dropped_test_rows(actions: Sequence[Action]) -> Action | None:
    """The last action that did."""
    return next((a for a in reversed(actions) if a.tool is not None and drops_test_rows(a.tool.code)), None)


def drops_test_rows(code: str) -> bool:
    """Whether rows are taken out of something that is called test, by a method or a mask, by the code's syntax tree."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    dropped = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _DROPPING:
            dropped.append(node.func.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_mask(node.slice):
            dropped.append(node.value)
    names = [n.id for receiver in dropped for n in ast.walk(receiver) if isinstance(n, ast.Name)]
    return any("test" in name.lower() for name in names)


def _is_mask(index: ast.expr) -> bool:
    """`frame[frame.a > 0]`, `frame[~frame.a.isna()]`, `frame[frame.a.notna() & ...]`."""
    if isinstance(index, ast.Compare) or (isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.Invert)):
        return True
    if isinstance(index, ast.BinOp) and isinstance(index.op, ast.BitAnd | ast.BitOr):
        return True
    return isinstance(index, ast.Call) and isinstance(index.func, ast.Attribute) and index.func.attr in _MASKS
