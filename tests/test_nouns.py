"""The page of each noun shows a smallest part of one's own: exactly what it shows is tried."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mappa.config import CONF, compose
from mappa.train import cheap_parts, train
from tests.conftest import REPO

NOUNS = ["mappa/task", "mappa/team", "mappa/judge", "mappa/objective", "mappa/engine", "sandbox"]
_BLOCK = re.compile(r"```(?:python|yaml)\n# (my/\S+)\n(.*?)```", re.DOTALL)
_COMMAND = re.compile(r"```sh\npython -m mappa\.train --config-dir my/conf (.*?)\n```")


def written(noun: str, folder: Path) -> list[str]:
    """Writes the page's files; returns the words of its command."""
    page = (REPO / noun / "README.md").read_text()
    files = _BLOCK.findall(page)
    assert files, f"{noun}/README.md shows nothing of one's own"
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return shlex.split(_COMMAND.search(page)[1])


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("noun", NOUNS)
def test_a_part_as_the_page_shows_it_is_composed_and_checked(noun: str, away: Path):
    words = written(noun, away)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *words], cwd=away, capture_output=True, text=True, timeout=120
    )  # in a process of its own: every page has a package `my`
    assert done.returncode == 0, done.stderr


CHECK = """
import sys
from pathlib import Path
from mappa.config import compose
from mappa.train import cheap_parts
cheap_parts(compose([*sys.argv[1:], "paths.run=run", "paths.outputs=run"], folders=[Path("my/conf")]))
"""


@pytest.mark.slow
def test_all_of_them_train_together(away: Path):
    words = {word for noun in NOUNS for word in written(noun, away)} - {"judge=outcome"}
    small = ["+debug=fast", "data.updates_per_epoch=1", f"paths.run={away}/run", f"paths.outputs={away}"]
    words |= {"team.drafter.max_tokens=24"}
    cfg = compose(
        ["+experiment=quickstart", *sorted(words - {"+experiment=quickstart"}), *small], folders=[away / "my/conf"]
    )
    cheap_parts(cfg)
    summary = json.loads((train(cfg) / "summary.json").read_text())
    assert set(summary["reward_by_agent"]["last"]) == {"drafter", "answerer"}
    assert summary["accuracy_after"]["n"] == 4


def test_every_group_of_a_noun_has_its_page():
    assert {Path(noun).name for noun in NOUNS} <= {path.name for path in CONF.iterdir()}
