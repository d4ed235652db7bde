"""A user's own parts, from a folder outside the project: `--config-dir my/conf` with `_target_: my.parts.Class`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mappa.config import compose
from mappa.evaluate import evaluate
from mappa.plan import plan
from mappa.train import train
from tests.conftest import REPO, write_hydra_folder

OUTSIDE = REPO / "tests" / "outside"
CONFIG = OUTSIDE / "my" / "conf"
WORDS = ("+experiment=copying",)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(command, *words)` in a copy of the example, which lies below `tmp_path`."""
    shutil.copytree(OUTSIDE, tmp_path, dirs_exist_ok=True)

    def call(command: str, *words: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", f"mappa.{command}", *words]
        return subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return call


def test_train_evaluate_and_plan_with_parts_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.chdir(tmp_path)
    cfg = compose([*WORDS, "+debug=fast", "data.updates_per_epoch=1", f"paths.run={tmp_path}/run"], folders=[CONFIG])
    folder = train(cfg)
    write_hydra_folder(cfg, folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["reward_by_agent"]["last"]) == {"left", "right"}
    assert summary["accuracy_after"]["n"] == 4

    results = evaluate([f"run={folder}", "limit=3", "task=copying", "--config-dir", str(CONFIG)])
    assert json.loads((results / "summary.json").read_text())["validation"][0]["name"] == "copying"
    assert plan([*WORDS, "--config-dir", str(CONFIG)])[1]


def test_help_shows_a_users_experiments_and_options(run: Run):
    lines = run("plan", "--help", "--config-dir", "my/conf").stdout.splitlines()
    assert any(line.split()[:3] == ["copying", "Two", "agents"] for line in lines)
    assert any(line.split()[0] == "task" and "copying" in line for line in lines if line.strip())


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        (
            "conf/task/copying.yaml",
            "size",
            "sise",
            r"unknown key 'task.sise' (in {}); my.parts.Copying takes: seed, size",
        ),
        ("conf/task/copying.yaml", "size: 64", "size: many", "task.size=many must be a valid integer (in {})"),
        ("conf/task/copying.yaml", "Copying", "Coping", "task._target_=my.parts.Coping cannot be imported (in {})"),
        ("conf/experiment/copying.yaml", "data: {", "data: {sede: 1, ", "unknown key 'data.sede' (in {})"),
        ("conf/experiment/copying.yaml", "task: copying", "task: copyin", "Could not find 'task/copyin'"),
        ("conf/judge/similar.yaml", "power: 4.0", "power: [", "{}"),
        ("parts.py", "class Pair:", "class Pair", "parts.py, line"),
    ],
)
def test_errors_name_the_users_file(run: Run, tmp_path: Path, file: str, before: str, after: str, message: str):
    path = tmp_path / "my" / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    done = run("train", "--config-dir", "my/conf", *WORDS)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert message.format(path) in lines[0] or message.format(path.relative_to(tmp_path)) in lines[0], lines[0]


def test_the_readme_shows_this_example():
    readme = (REPO / "README.md").read_text()
    for path in sorted(OUTSIDE.rglob("*.*")):
        if path.suffix in (".py", ".yaml"):
            assert path.read_text() in readme, f"README.md does not show {path.relative_to(OUTSIDE)} as it is"
