"""A deterministic, process-level judge for the data-science team: no model, no network, blame by the files themselves.

Each action is scored by what it ran and left behind: did its code run, did its agent save what it has to, in the end.
When an act is over its files were probed (`mappa.play.probe`): rows, columns and their order, nulls, types, whether the
model is fitted and predicts. What is wrong with them is the fault of the agent in whose act it came to be, whatever the
later error says; who was blocked by somebody else's fault is not at fault. Only episodes without probes are judged by
what their errors say. Probes can be fooled by code that changes the libraries in its kernel: this judge is for teams
that learn to work, not for adversaries.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from mappa.errors import ConfigError
from mappa.judge.base import BaseJudge, Evidence, When
from mappa.judge.rubric.artifacts import Fault, Names, found_in
from mappa.types import Action, Episode, Verdict

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
        target: str = "y_train.pkl",
        test_features: str = "X_test.pkl",
        model: str = "model.pkl",
        submission: str = "submission.csv",
        when: str = "episode",
    ) -> None:
        """Nothing is read.

        Args:
            artifacts: agent -> files it has to leave in the workspace, agents in acting order.
            features: the artifact with the training rows' features.
            target: with their target.
            test_features: with the test rows' features.
            model: with the fitted model.
            submission: that the task grades.
            when: `episode`, or `action`: nobody is blamed for what breaks later.

        Raises:
            ConfigError: features, model or submission are nobody's artifact.
        """
        self._artifacts = {agent: tuple(files) for agent, files in artifacts.items()}
        self._owners = {name: agent for agent, names in self._artifacts.items() for name in names}
        for name in (features, model, submission):
            if name not in self._owners:
                raise ConfigError(f"judge: '{name}' is no agent's artifact; known: {', '.join(self._owners) or 'none'}")
        self._names = Names(features, target, test_features, model)
        self._features, self._model, self._submission = self._owners[features], self._owners[model], submission
        self.when = When(when)
        self.id = "rubric-tabular-3"

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
        if run is None and (seat := self._stopped(action.seat, evidence.before)) is not None:
            return BLOCKED, f"stopped by a fault of {seat}"
        share = 1.0 - len(lacking) / len(wanted)
        return 4.0 + 4.0 * share, f"not saved yet: {', '.join(lacking)}"

    def _blocker(self, action: Action, before: Sequence[Action]) -> Action | None:
        """Whose earlier action the failure of this one is put down to."""
        blamed = {agent for agent, _ in self._broken(action, before)} - {action.seat}
        return next((a for a in reversed(before) if a.seat in blamed), None)

    def _stopped(self, agent: str, before: Sequence[Action]) -> str | None:
        """Whose fault ended this agent's last run, if another's did."""
        runs = [i for i, a in enumerate(before) if a.seat == agent and a.tool is not None]
        blocker = self._blocker(before[runs[-1]], before[: runs[-1]]) if runs else None
        return None if blocker is None else blocker.seat

    def _faults(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        """(id of the guilty action, why), over the whole episode as far as it is known."""
        actions = evidence.actions
        for index, action in enumerate(actions):
            if action.tool is not None and action.tool.status == "error":
                for agent, why in self._broken(action, actions[:index]):
                    if agent != action.seat:
                        yield self._guilty(actions[:index], agent), why
        for index, seat, fault in self._probed(actions):
            if fault.certain or (evidence.episode is not None and _failed(evidence.episode)):
                yield self._guilty(actions[: index + 1], seat), fault.why
        if evidence.episode is not None:
            yield from self._unsaved(actions)
            yield from self._outcome(evidence)

    def _probed(self, actions: Sequence[Action]) -> Iterator[tuple[int, str, Fault]]:
        """(end of the act in which it came to be, its agent, fault), as the probes found them."""
        known: set[str] = set()
        for index, action in enumerate(actions):
            if action.probe is not None:
                for fault in found_in(action.probe, self._names):
                    if fault.name not in known:
                        known.add(fault.name)
                        yield index, action.seat, fault

    def _broken(self, action: Action, before: Sequence[Action]) -> Iterator[tuple[str, str]]:
        """(agent, why) for each fault of others that this failed run gives evidence of."""
        text = action.tool.text if action.tool is not None else ""
        there = {name for a in before for name in a.files}
        for name in _MISSING.findall(text):
            if name in self._owners and name not in there:
                stopped = self._stopped(self._owners[name], before)
                yield stopped or self._owners[name], f"{name} was not there when {action.seat} needed it"
        if any(a.probe is not None for a in before):
            for _, seat, fault in self._probed(before):
                if re.search(fault.breaks, text, re.IGNORECASE):
                    yield seat, fault.why
            return
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
            if self._stopped(agent, actions) is None:
                yield mine[-1].id, f"stopped without saving {', '.join(lacking)}"

    def _outcome(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        """A submission that the task refuses is its writer's fault, or that of who spoilt what it was made of."""
        grade, actions = evidence.episode.grade, evidence.actions
        wrote = [a for a in actions if self._submission in a.files]
        if grade is None or not wrote or grade.metrics.get("success", 1.0) > 0:
            return
        if any(a.probe is not None for a in actions):
            if not any(seat != wrote[-1].seat for _, seat, _ in self._probed(actions)):
                yield wrote[-1].id, grade.reason
            return
        dropped = _dropped_test_rows(actions)
        if "misses" in grade.reason and "0 unknown" in grade.reason and dropped is not None:
            yield dropped.id, f"rows of test.csv were dropped: {grade.reason}"
        else:
            yield wrote[-1].id, grade.reason


def _failed(episode: Episode) -> bool:
    return episode.grade is None or episode.grade.metrics.get("success", 1.0) == 0.0


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
