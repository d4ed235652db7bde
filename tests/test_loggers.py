"""Each logger in a real run of its own; what it has kept is read back by its own package."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from callbacks.text import as_markdown
from mappa.errors import ConfigError
from mappa.play.episodes import read_episodes
from mappa.train import cheap_parts, train
from mappa.types import Episode, Grade, Task, Verdict
from tests.conftest import compose_config, make_action

FAST = ["+experiment=quickstart", "+debug=fast", "trainer.max_epochs=1"]


def trained(folder: Path, *words: str) -> dict:
    train(compose_config([*FAST, *words], folder))
    return json.loads((folder / "summary.json").read_text())


def test_several_loggers_keep_the_same_numbers(tmp_path: Path):
    import mlflow
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summary = trained(tmp_path, "logger=[tensorboard,csv,mlflow]")
    reward = summary["reward_by_agent"]["last"]["solver"]

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("solver/reward")[-1].value == pytest.approx(reward)
    texts = events.Tensors("episode/0/text_summary")
    first = read_episodes(tmp_path / "episodes" / "epoch=0000.jsonl")[0]
    assert first.actions[0].text in texts[0].tensor_proto.string_val[0].decode()

    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [row["solver/reward"] for row in csv.DictReader(file) if row["solver/reward"]]
    assert float(rows[-1]) == pytest.approx(reward)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (kept,) = client.search_runs([client.get_experiment_by_name("mappa").experiment_id])
    assert kept.data.metrics["solver/reward"] == pytest.approx(reward)
    assert kept.info.status == "FINISHED"


def test_without_a_logger_the_run_folder_holds_what_it_always_does(tmp_path: Path):
    trained(tmp_path, "logger=none")
    assert not {"tensorboard", "csv"} & {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "episodes" / "epoch=0000.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed (pip install 'mappa[wandb]')")
def test_wandb_offline_keeps_a_run_that_can_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained(tmp_path, "logger=wandb", "logger.wandb.offline=true")
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"solver/reward" in kept.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("trackio"), reason="trackio is not installed ('mappa[trackio]')")
def test_trackio_keeps_a_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    reward = trained(tmp_path, "logger=trackio")["reward_by_agent"]["last"]["solver"]
    (run,) = SQLiteStorage.get_runs("mappa")
    found = [line["solver/reward"] for line in SQLiteStorage.get_logs("mappa", run) if "solver/reward" in line]
    assert found[-1] == pytest.approx(reward)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else found(wanted, *rest)
    )
    with pytest.raises(ConfigError, match=rf"logger={name} needs its package: pip install 'mappa\[{name}\]'"):
        cheap_parts(compose_config([*FAST, f"logger=[csv,{name}]"], tmp_path))


def test_what_agents_said_is_no_markup_in_a_text():
    said = "# no heading\n<img src=x>\n\n* no list"
    action = make_action(name="e/0", text=said)
    episode = Episode("e", Task("t", said), 0, (action,), said, Grade(0.0, said))
    lines = as_markdown(episode, {"e/0": Verdict(3.0, said)}).splitlines()
    assert all(line.startswith("    ") for line in lines if "no heading" in line or "<img" in line or "* no" in line)
    assert "3 / 10" in lines
