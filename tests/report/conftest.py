"""Run folders made by hand, and a real browser."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer

from mappa.config import ASSETS
from mappa.play.episodes import to_json, write_episodes
from mappa.types import Episode, Grade, Message, Task, ToolRun, Verdict
from tests.conftest import compose_config, make_action, write_hydra_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """This machine's Chromium, headless; while it is open no other event loop runs in this thread.

    Where MAPPA_BROWSER is set (CI) it has to be there.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        message = "no Chromium on this machine (apt-get install chromium)"
        pytest.fail(message) if os.environ.get("MAPPA_BROWSER") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@functools.cache
def tokens(text: str) -> list[int]:
    return Tokenizer.from_file(str(ASSETS / "tiny" / "tokenizer.json")).encode(text).ids


Said = tuple[str, str, float | None, ToolRun | None]
"""Seat, text, score, tool."""


def episode(name: str, said: list[Said], score: float | None, task: Task | None = None, **more: Any) -> dict[str, Any]:
    """A stored episode with verdicts and advantages, as `callbacks.episodes` leaves it."""
    actions = [
        make_action(
            seat,
            completion_ids=tuple(tokens(text)),
            logprobs=(-0.5,) * len(tokens(text)),
            name=f"{name}/{index}",
            text=text,
            tool=tool,
            messages=(Message("user", f"prompt of {seat}"),),
        )
        for index, (seat, text, _, tool) in enumerate(said)
    ]
    made = Episode(
        id=name,
        task=task or Task(id=f"task-{name}", question=f"question of {name}", answer="4", kind="sums"),
        seed=0,
        actions=tuple(actions),
        answer=said[-1][1],
        grade=None if score is None else Grade(score, "compared"),
        error="it broke" if score is None else None,
    )
    line = to_json(replace(made, **more))
    for action, (_, _, given, _) in zip(line["actions"], said, strict=True):
        action["verdict"] = asdict(Verdict(given, f"reason for {action['agent']}", "judge-1"))
        action["advantages"] = None if given is None else [given / 5 - 1] * len(action["completion_ids"])
    return line


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """`run_folder(training, before, after, *overrides)`: a run folder that holds these episodes."""

    def make(
        training: list[dict[str, Any]],
        before: list[dict[str, Any]] = (),
        after: list[dict[str, Any]] = (),
        *overrides: str,
        name: str = "run",
        summary: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        write_hydra_folder(compose_config(["+experiment=quickstart", *overrides], folder), folder)
        write_episodes(folder / "episodes" / "epoch=0000.jsonl", {"epoch": 0}, training)
        for epoch, episodes in ((0, before), (1, after)):
            if episodes:
                write_episodes(folder / f"validation/transcripts/sums-epoch={epoch:04d}.jsonl", {}, episodes)
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


OK = ToolRun("print(4)", "4", "ok", 0.1)
BROKE = ToolRun("open('model.pkl')", "Traceback: no such file", "error", 0.1)
