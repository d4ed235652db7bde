"""The run at a glance: what was reached and at what price, and what changed against another run."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from mappa.report.records import TRAIN, Row, Run
from mappa.report.statistics import paired

_PARTS = ("team", "task", "model", "engine", "judge", "objective", "credit", "reward", "select")
_NO_SETTING = ("paths", "resume", "name")
"""Keys in which any two runs differ."""
_LONGEST = 120
_LINES = 40
"""Of the log."""
MANY = 0.05
"""Share of episodes from which on something is worth a warning."""
_ABSENT = "–"


def glance(run: Run, other: Run | None = None) -> dict[str, Any]:
    """What the page's head is filled with; `charts` are for its script."""
    return {
        "title": str(run.summary.get("experiment") or run.config.get("name", "run")),
        "folder": run.folder.name,
        "parts": _parts(run.config),
        "tiles": list(_tiles(run)),
        "agents": _agents(run),
        "measures": list(_measures(run)),
        "warnings": _warnings(run),
        "said": run.said[-_LINES:],
        "changed": None if other is None else _changed(run, other),
        "charts": _charts(run, other),
    }


def _parts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Part -> its short name."""
    found = []
    for part in _PARTS:
        node = config.get(part)
        if isinstance(node, Mapping):
            name = str(node["path"] if part == "model" else node.get("_target_", ""))
            found.append((part, re.split(r"[/.:]", name.rstrip("}"))[-1]))
    unused = {"reward", "select"} if "credit" in config.get("objective", {}) else {"credit"}
    if config.get("callbacks", {}).get("judge") is None:
        unused.add("judge")
    return [(part, name) for part, name in found if part not in unused]


def _tiles(run: Run) -> Iterator[dict[str, str]]:
    summary = run.summary
    for name, results in _by_set(summary).items():
        first, last = results[0], results[-1]
        accuracy = next(iter(last["measures"].values()))
        before = next(iter(first["measures"].values())) if last is not first else None
        yield {
            "label": f"held-out accuracy, {name}",
            "value": f"{accuracy['mean']:.3f}",
            "from": f"{before['mean']:.3f}" if before else "",
            "note": f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}], {accuracy['n']} problems"
            + _gain(last.get("gain")),
        }
        yield {
            "label": f"tokens an episode, {name}",
            "value": f"{last['tokens']:.1f}",
            "from": f"{first['tokens']:.1f}" if last is not first else "",
            "note": f"of completions, all seats{_gain(last.get('tokens_gain'), '.1f')}",
        }
    trained = [row for row in run.rows if row.set == TRAIN]
    failed = sum(bool(row.error) for row in trained)
    yield {
        "label": "training episodes",
        "value": f"{len(trained):,}",
        "from": "",
        "note": f"{sum(row.actions for row in trained):,} actions, {sum(row.tokens for row in trained):,} tokens"
        + (f", {failed} ended in an error" if failed else ""),
    }
    judge = summary.get("judge", {})
    if judge.get("calls") or judge.get("cached"):
        verdicts = judge["calls"] + judge["cached"] - judge["failed"]
        yield {
            "label": "verdicts",
            "value": f"{verdicts:,}",
            "from": "",
            "note": f"${judge['cost']:.2f} for {judge['calls']:,} calls; {judge['cached']:,} from the ledger, "
            f"{judge['failed']:,} failed",
        }
    if summary:
        yield {
            "label": "time",
            "value": duration(summary["seconds"]),
            "from": "",
            "note": f"{summary['epochs']} epoch{'s' * (summary['epochs'] != 1)}, validation included",
        }


def _gain(found: Mapping[str, float] | None, form: str = ".3f") -> str:
    if not found:
        return ""
    return f"; {found['mean']:+{form}} [{found['low']:+{form}}, {found['high']:+{form}}], p = {found['p']:.2g}"


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def _by_set(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in summary.get("validation", []):
        found[result["name"]].append(result)
    return found


def _agents(run: Run) -> list[dict[str, str]]:
    """Mean reward of each agent in the first epoch and in the last."""
    found = {name: (points[0][1], points[-1][1]) for name, points in run.rewards().items()}
    return [
        {"name": name, "first": f"{first:.3f}", "last": f"{last:.3f}", "change": f"{last - first:+.3f}"}
        for name, (first, last) in found.items()
    ]


def _measures(run: Run) -> Iterator[dict[str, str]]:
    """The task's own measures over all kinds, before training and now."""
    for name, results in _by_set(run.summary).items():
        first, last = results[0], results[-1]
        for measure, now in last["metrics"].items():
            if "/" in measure:
                continue
            before = first["metrics"].get(measure) if last is not first else None
            yield {
                "set": name,
                "measure": measure,
                "before": f"{before['mean']:.3f}" if before else _ABSENT,
                "now": f"{now['mean']:.3f} [{now['low']:.3f}, {now['high']:.3f}]",
                "gain": _gain(last["gains"].get(measure)).removeprefix("; "),
            }


def _warnings(run: Run) -> list[str]:
    """What a reader has to know before believing the numbers."""
    trained = [row for row in run.rows if row.set == TRAIN]
    if not trained:
        return ["No training episode is stored in this run folder yet."]
    shares = {
        "ended in an error": statistics.fmean(bool(row.error) for row in trained),
        "have an action that was cut off by max_tokens": statistics.fmean(row.truncated for row in trained),
    }
    found = [f"{share:.0%} of the training episodes {what}." for what, share in shares.items() if share >= MANY]
    actions, unjudged = sum(row.actions for row in trained), sum(row.unjudged for row in trained)
    if unjudged:
        found.append(f"{unjudged} of {actions} actions have no verdict; they were not learned from.")
    if not run.summary:
        found.append("The first epoch has not ended yet.")
    return found


# ---------------------------------------------------------------------- against another run
def _changed(run: Run, other: Run) -> dict[str, Any]:
    here, there = _flat(run.config), _flat(other.config)
    keys = [key for key in {**there, **here} if here.get(key) != there.get(key)]
    return {
        "name": str(other.folder),
        "settings": [
            {"key": key, "there": _short(there.get(key, _ABSENT)), "here": _short(here.get(key, _ABSENT))}
            for key in keys
            if key.partition(".")[0] not in _NO_SETTING
        ],
        "numbers": list(_numbers(run, other)),
    }


def _flat(node: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {where: node}
    return {key: value for k, v in node.items() for key, value in _flat(v, f"{where}.{k}" if where else str(k)).items()}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _numbers(run: Run, other: Run) -> Iterator[dict[str, str]]:
    """The last validation of each set both have, paired by problem; then prices."""
    here, there = _last_scores(run.rows), _last_scores(other.rows)
    for name in here.keys() & there.keys():
        for what, form, index in (("accuracy", ".3f", 0), ("tokens an episode", ".1f", 1)):
            mine, theirs = here[name][index], there[name][index]
            both = sorted(mine.keys() & theirs.keys())
            if not both:
                continue
            ours, them = ({task: found[task] for task in both} for found in (mine, theirs))
            yield {
                "what": f"{what}, {name}, {len(both)} problems of both",
                "there": f"{statistics.fmean(them.values()):{form}}",
                "here": f"{statistics.fmean(ours.values()):{form}}",
                "difference": _gain(paired(them, ours, here[name][2]), form).removeprefix("; "),
            }
    for key, what in (("cost", "judge, dollars"), ("seconds", "seconds")):
        found = [r.summary.get("judge", {}).get(key) if key == "cost" else r.summary.get(key) for r in (other, run)]
        if None not in found:
            yield {"what": what, "there": f"{found[0]:,.2f}", "here": f"{found[1]:,.2f}", "difference": ""}


def _last_scores(rows: list[Row]) -> dict[str, tuple[dict[str, float], dict[str, float], dict[str, str]]]:
    """Validation set -> task -> mean grade (a failed episode counts 0), mean tokens, and the task's cluster."""
    last = {row.set: row.epoch for row in rows if row.set != TRAIN}
    by_set: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if last.get(row.set) == row.epoch:
            by_set[row.set][row.task].append(row)
    return {
        name: (
            {task: statistics.fmean(row.grade or 0.0 for row in found) for task, found in by_task.items()},
            {task: statistics.fmean(row.tokens for row in found) for task, found in by_task.items()},
            {task: found[0].cluster for task, found in by_task.items()},
        )
        for name, by_task in by_set.items()
    }


# ---------------------------------------------------------------------- charts
def _charts(run: Run, other: Run | None) -> dict[str, list[dict[str, Any]]]:
    """Chart -> its lines: name, x, y, and for held-out values the interval."""
    curve, tokens = [], []
    for which in (run, other):
        if which is None:
            continue
        mark = {} if which is run else {"other": True}
        for name, results in _by_set(which.summary).items():
            epochs = [result["epoch"] for result in results]
            accuracies = [next(iter(result["measures"].values())) for result in results]
            curve.append({"name": f"held-out, {name}", "x": epochs, "held": True, **_spread(accuracies), **mark})
            spent = [result["tokens_interval"] for result in results]
            tokens.append({"name": f"held-out, {name}", "x": epochs, "held": True, **_spread(spent), **mark})
    for agent, points in run.rewards().items():
        curve.append({"name": f"{agent}: reward", "x": [e + 0.5 for e, _ in points], "y": [v for _, v in points]})
    for key, name in (("single", "one first answer"), ("majority", "their vote")):  # of a debate
        found = [(result["epoch"], result[key]["mean"]) for result in run.summary.get("diversity", [])]
        if found:
            curve.append({"name": name, "x": [epoch for epoch, _ in found], "y": [value for _, value in found]})
    phases = [
        {"name": name, "x": [epoch for epoch, _ in points], "y": [seconds for _, seconds in points]}
        for name, points in run.phases.items()
    ]
    spent = _tokens_by_epoch(run.rows)
    if spent:
        tokens.append({"name": "training", "x": [e + 0.5 for e in spent], "y": list(spent.values())})
    return {name: lines for name, lines in {"curve": curve, "tokens": tokens, "phases": phases}.items() if lines}


def _spread(found: list[Mapping[str, float]]) -> dict[str, list[float]]:
    return {key: [value[name] for value in found] for key, name in (("y", "mean"), ("low", "low"), ("high", "high"))}


def _tokens_by_epoch(rows: list[Row]) -> dict[int, float]:
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row.set == TRAIN:
            found[row.epoch].append(row.tokens)
    return {epoch: statistics.fmean(values) for epoch, values in sorted(found.items())}
