"""Verdicts of another judge on a stored run, beside the first: `python -m mappa.rejudge run=FOLDER judge=NAME`.

Words:
    run=FOLDER     a run with stored episodes
    judge=NAME     the judge, as for mappa.train, with its settings (judge.model=...)
    epochs=N       the last N epochs (default: all)
    budget=D       dollars at most, for a judge that is paid (default 2); what it does not reach has no verdict
    anything else  a configuration override, as for mappa.train

Writes <run>/rejudged/<judge>/epoch=NNNN.jsonl, an object a line: action, agent, score, reason, and the run's own
`first`, which callbacks.judge.caps may have lowered. What was paid for before is not paid again. The last line printed
is that folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mappa.audit import configuration, dollars, on_budget
from mappa.command import help_text, run_guarded, split, wants_help
from mappa.config import check, make
from mappa.errors import ConfigError
from mappa.judge.base import Judge
from mappa.play.episodes import read_episodes, stored_files, write_lines
from mappa.report.audit import Line, Sight, agreement, ask, file_of
from mappa.types import BASE, Verdict

_WORDS = {"run": None, "judge": None, "epochs": "null", "budget": "2"}


def rejudge(argv: Sequence[str]) -> tuple[Path, Line]:
    """The folder of the new verdicts, and how far they agree with the first ones.

    Raises:
        ConfigError: what was asked for cannot be.
        JudgeError: the judge cannot be used.
    """
    words, overrides, folders = split(argv, _WORDS)
    if not words["run"] or not words["judge"]:
        raise ConfigError("say which run and which judge: python -m mappa.rejudge run=outputs/NAME/TIME judge=NAME")
    if words["epochs"] != "null" and not (words["epochs"].isdigit() and int(words["epochs"])):
        raise ConfigError(f"epochs={words['epochs']} must be a whole number of at least 1")
    budget = dollars(words["budget"])
    cfg, origin = configuration(words["judge"], words["run"], overrides, folders)
    check(cfg, origin)
    files = stored_files(words["run"])
    files = files if words["epochs"] == "null" else files[-int(words["epochs"]) :]
    judge = make(on_budget(cfg.judge, budget, cfg.paths.outputs))
    return asyncio.run(_rejudge(Path(words["run"]), files, judge))


async def _rejudge(run: Path, files: Sequence[Path], judge: Judge) -> tuple[Path, Line]:
    folder = file_of(run / "rejudged", judge.id).with_suffix("")
    old: list[Verdict] = []
    new: list[Verdict] = []
    try:
        await judge.start()
        for path in files:
            before = _first(path)
            sights = [
                Sight(episode, index)
                for episode in read_episodes(path) or ()
                for index in range(episode.shared, len(episode.actions))
                if episode.actions[index].agent != BASE
            ]
            verdicts = await ask(judge, sights)
            lines = [_line(sight, verdict, before) for sight, verdict in zip(sights, verdicts, strict=True)]
            write_lines(folder / path.name, lines)
            old += [Verdict(line["first"]) for line in lines]
            new += verdicts
    finally:
        await judge.close()
    return folder, agreement(("the run's judge", judge.id), old, new)


def _first(path: Path) -> dict[str, float | None]:
    """Action id -> the score that the run learned from."""
    with path.open() as file:
        episodes = [json.loads(line) for line in file][1:]
    verdicts = {a["id"]: a.get("verdict") for episode in episodes for a in episode["actions"]}
    return {name: verdict["score"] for name, verdict in verdicts.items() if verdict is not None}


def _line(sight: Sight, verdict: Verdict, first: dict[str, float | None]) -> dict[str, Any]:
    action = sight.action
    said = {"score": verdict.score, "reason": verdict.reason, "first": first.get(action.id)}
    return {"action": action.id, "agent": action.seat, "judge": verdict.judge, **said}


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    folder, line = rejudge(sys.argv[1:])
    print(f"{line.text}\n{folder}")  # noqa: T201 the command's last lines


if __name__ == "__main__":
    run_guarded(main)
