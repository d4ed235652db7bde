"""A run folder as the page reads it: one short row for each stored episode, whole episodes when they are asked for."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mappa.config import register_resolvers
from mappa.errors import ConfigError

TRAIN = "training"
CONFIG = ".hydra/config.yaml"
"""In a run folder: what it was composed of."""
_TRANSCRIPT = re.compile(r"(.+)-epoch=(\d+)$")
_SHOWN = 300
"""Characters of a question, an answer or an error in a list."""


@dataclass(frozen=True)
class Row:
    """What a list of episodes tells of one."""

    file: Path
    offset: int
    """In bytes, of its line."""
    id: str
    set: str
    """`TRAIN`, or the name of a validation set."""
    epoch: int
    """Whose rollout it is, or epochs trained before it was validated."""
    task: str
    kind: str
    cluster: str
    """What the task shares with others; its own id where with none."""
    question: str
    answer: str
    grade: float | None
    error: str
    truncated: bool
    tool_failed: bool
    actions: int
    tokens: int
    """Of all completions; what a branch replays is not counted again."""
    rewards: dict[str, float]
    """Agent -> mean judge score of its actions, on 0-1."""
    scores: list[float]
    """The judge's, on 0-10, in the order of the actions."""
    unjudged: int
    """Actions that the judge has no verdict for."""
    advantage: float | None
    """Of the action with the largest one, by magnitude: its mean, or its weight; None = nothing was learned."""
    parent: str | None

    @property
    def key(self) -> str:
        """Unique in the run: validation plays the same ids again and again."""
        return f"{self.set}/{self.epoch}/{self.id}"

    def line(self) -> dict[str, Any]:
        """The stored episode.

        Raises:
            ConfigError: the file has been written anew meanwhile.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            try:
                found = json.loads(file.readline())
            except ValueError:
                found = {}
        if found.get("id") != self.id:
            raise ConfigError(f"{self.file} was written anew while it was read; try again")
        return found


@dataclass(frozen=True)
class Run:
    """What a run has left in its folder so far."""

    folder: Path
    config: dict[str, Any]
    model: str
    """Where its base model is: a folder, or a hub id."""
    summary: dict[str, Any]
    """Empty before the first epoch has ended."""
    rows: list[Row]
    said: list[str]
    """The lines of its log."""
    phases: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Phase -> (epoch, wall-clock seconds); empty where TensorBoard was not its logger."""

    def rewards(self) -> dict[str, list[tuple[int, float]]]:
        """Agent -> (epoch, mean judge score on 0-1) in training."""
        found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            for agent, value in row.rewards.items() if row.set == TRAIN else ():
                found[agent][row.epoch].append(value)
        return {a: [(e, statistics.fmean(v)) for e, v in sorted(by.items())] for a, by in found.items()}


def check_run(folder: str | Path) -> Path:
    """
    Raises:
        ConfigError: not a run folder.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise ConfigError(f"{folder} is not a run folder (no {CONFIG} in it); give outputs/NAME/TIME")
    return Path(folder)


def read_run(folder: str | Path) -> Run:
    """Everything but the episodes themselves.

    Raises:
        ConfigError: not a run folder.
    """
    folder = check_run(folder)
    from omegaconf import OmegaConf

    register_resolvers()
    cfg = OmegaConf.load(folder / CONFIG)
    summary, log = folder / "summary.json", folder / "train.log"
    return Run(
        folder,
        OmegaConf.to_container(cfg, resolve=False),
        str(cfg.model.path),
        json.loads(summary.read_text()) if summary.is_file() else {},
        list(_rows(folder)),
        log.read_text(errors="replace").splitlines() if log.is_file() else [],
        _phases(folder / "tensorboard"),
    )


def _rows(folder: Path) -> Iterator[Row]:
    for path in sorted((folder / "episodes").glob("epoch=*.jsonl")):
        yield from _rows_of(path, TRAIN, int(path.stem.partition("=")[2]))
    for path in sorted((folder / "validation" / "transcripts").glob("*.jsonl")):
        found = _TRANSCRIPT.fullmatch(path.stem)
        if found is not None:
            yield from _rows_of(path, found[1], int(found[2]))


def _rows_of(path: Path, name: str, epoch: int) -> Iterator[Row]:
    with path.open("rb") as file:
        file.readline()  # the header
        while True:
            offset = file.tell()
            line = file.readline()
            if not line:
                return
            yield row(json.loads(line), path, offset, name, epoch)


def row(episode: Mapping[str, Any], file: Path, offset: int, name: str, epoch: int) -> Row:
    actions, shared = episode["actions"], episode.get("shared", 0)
    own = actions[shared:]
    judged = [(a["agent"], a["verdict"]["score"]) for a in own if (a.get("verdict") or {}).get("score") is not None]
    by_agent: dict[str, list[float]] = defaultdict(list)
    for agent, score in judged:
        by_agent[agent].append(score / 10)
    learned = [statistics.fmean(a["advantages"]) for a in own if a.get("advantages")]
    grade = episode["grade"]
    return Row(
        file=file,
        offset=offset,
        id=episode["id"],
        set=name,
        epoch=epoch,
        task=episode["task"]["id"],
        kind=episode["task"]["kind"],
        cluster=episode["task"].get("cluster") or episode["task"]["id"],
        question=episode["task"]["question"][:_SHOWN],
        answer=(episode["answer"] or "")[-_SHOWN:],
        grade=None if grade is None else grade["score"],
        error=(episode["error"] or "")[:_SHOWN],
        truncated=any(a["stop_reason"] == "length" for a in own),
        tool_failed=any(a["tool"] is not None and a["tool"]["status"] != "ok" for a in own),
        actions=len(own),
        tokens=sum(len(a["completion_ids"]) for a in own),
        rewards={agent: statistics.fmean(found) for agent, found in by_agent.items()},
        scores=[score for _, score in judged],
        unjudged=sum("verdict" in a and (a["verdict"] or {}).get("score") is None for a in own) if judged else 0,
        advantage=max(learned, key=abs, default=None),
        parent=episode.get("parent"),
    )


def _phases(folder: Path) -> dict[str, list[tuple[int, float]]]:
    if not any(folder.glob("events.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = [tag for tag in events.Tags()["scalars"] if tag.startswith("seconds/")]
    epochs = {event.step: int(event.value) for event in events.Scalars("epoch")} if names else {}
    return {
        tag.removeprefix("seconds/"): [(epochs.get(e.step, i), e.value) for i, e in enumerate(events.Scalars(tag))]
        for tag in names
    }
