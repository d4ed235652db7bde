"""The laboratory's command on real, small runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mappa import lab
from mappa.config import check
from mappa.errors import ConfigError
from mappa.report.__main__ import report
from mappa.report.lab import crossed, outcome_of
from mappa.report.pictures import draw
from tests.conftest import compose_config

FEW = ["trainer.max_epochs=2", "data.tasks_per_epoch=4", "callbacks.validation.limit=8"]


@pytest.fixture
def two_arms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    arms = {f"2-{judge}": ["team.seats=2", f"judge={judge}"] for judge in lab.JUDGES}
    monkeypatch.setitem(lab.GRIDS, "small", arms)
    outputs = tmp_path / "a folder = mine"
    monkeypatch.setattr(sys, "argv", ["lab", "seeds=1", "jobs=1", f"outputs={outputs}", *FEW])
    return outputs / "credit_lab"


@pytest.mark.slow
def test_arms_are_run_once_and_told_in_a_table_and_a_picture(two_arms: Path, capsys: pytest.CaptureFixture[str]):
    lab.main()
    written = {path: path.stat().st_mtime_ns for path in two_arms.rglob("summary.json")}
    assert len(written) == 2
    lens = {path.parts[-3]: json.loads(path.read_text())["lens"] for path in written}
    assert [r["epoch"] for r in lens["2-outcome"]["held_out"]] == [0, 2]
    judged, shared = (lens[f"2-{judge}"]["rewards"] for judge in lab.JUDGES)
    assert set(judged) == set(shared) == {"seat_a", "seat_b"}
    assert all(seat["rho2"] in (None, pytest.approx(1.0)) for seat in judged.values()), "the judge is perfect"
    assert all(seat["rho2"] == pytest.approx(seat["rho2_outcome"]) for seat in shared.values()), (
        "the judge is the outcome"
    )
    table = (two_arms / "small.md").read_text()
    rows, _, told = table.partition("\n\n")
    assert [line.split(" ")[1] for line in rows.splitlines()[2:]] == ["2-rubric_relay", "2-outcome"]
    assert told.startswith("2-rubric_relay against 2-outcome: ")
    assert " to " not in told.partition("at the end")[2], "two epochs have no quarters"
    assert (two_arms / "small.svg").read_text().startswith("<?xml")
    assert not (two_arms / "small-ratio.svg").exists(), "of one number of seats there is nothing to see"
    page = report([f"run={two_arms}"]).read_text()
    assert "2-rubric_relay" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    lab.main()
    assert written == {path: path.stat().st_mtime_ns for path in two_arms.rglob("summary.json")}
    assert table in capsys.readouterr().out
    sys.argv.append("module.learning_rate=2e-3")
    with pytest.raises(ConfigError, match=r"2-rubric_relay/seed0 failed: it was run with other words \(team.seats=2 "):
        lab.main()
    assert written == {path: path.stat().st_mtime_ns for path in two_arms.rglob("summary.json")}


def test_a_run_that_fails_is_named_and_the_others_are_kept(two_arms: Path):
    sys.argv.append("module.learning_rate=-1")
    with pytest.raises(ConfigError, match=r"2-rubric_relay/seed0 failed: error: .*learning_rate"):
        lab.main()


@pytest.mark.parametrize("word", ["grid=none", "seeds=0", "jobs=x"])
def test_mistakes(word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["lab", word])
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        lab.main()


def test_every_arm_of_every_grid_composes(tmp_path: Path):
    """Real composition and checks, no runs; arms with the same words are checked once."""
    arms = {" ".join(words): words for arms in lab.GRIDS.values() for words in arms.values()}
    for words in arms.values():
        experiment = [] if words[0].startswith("+") else ["+experiment=credit_lab"]
        check(compose_config([*experiment, *words], tmp_path))


def test_an_arm_is_held_against_the_outcome_with_the_same_words():
    assert outcome_of("8-grpo@2e-3") == "8-outcome@2e-3"
    assert outcome_of("4-flips=0.1") == "4-outcome"


def test_pictures_of_many_sizes_and_of_judges_who_err(tmp_path: Path):
    """From arms as `measure` gives them, two seeds and ten problems each."""
    rng = np.random.default_rng(0)
    arms = [f"{k}-{judge}" for k in (2, 4, 8) for judge in lab.JUDGES] + ["4-flips=0.1", "4-flips=0.3"]
    found = {}
    for arm in arms:
        scores = np.sort(rng.random((3, 2, 10)), axis=0)
        accuracy = [crossed(scores[i]) for i in range(3)]
        episodes = 100.0 * (2 if arm.endswith("outcome") else 1)
        found[arm] = {"seats": int(arm[0]), "epochs": (0, 1, 2), "trained": [0, 16, 32], "scores": scores, "p": 0.9}
        found[arm] |= {"accuracy": accuracy, "area": accuracy[1], "episodes": episodes}
    drawn = draw(found, tmp_path, "all")
    assert [path.name for path in drawn] == ["all.svg", "all-ratio.svg", "all-map.svg"]
