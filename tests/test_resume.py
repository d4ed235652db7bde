"""Killed anywhere and resumed = never killed, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mappa.checkpoint import saved
from mappa.errors import CheckpointError
from mappa.train import train
from tests.conftest import compose_config
from tests.runs import adapters, equal, run, summary

MINI = [
    "+experiment=quickstart",
    "+debug=fast",
    "trainer.max_epochs=3",
    "data.updates_per_epoch=2",
    "sandbox.preload=[]",
    "credit=rae",  # it remembers
]
MINI += ["callbacks.validation.limit=2"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert run(MINI, folder) == 0
    return folder


SLOW = [pytest.param(moment, marks=pytest.mark.slow) for moment in ("rollout", "judging", "checkpoint")]


@pytest.mark.parametrize("moment", ["update", "first", *SLOW])
def test_kill_and_resume_is_bit_identical(moment: str, unbroken: Path, tmp_path: Path):
    assert run(MINI, tmp_path, kill=moment) == -9
    assert not (tmp_path / "checkpoints" / "epoch=2").exists()
    assert run([*MINI, f"resume={tmp_path}"], tmp_path) == 0
    assert equal(adapters(tmp_path), adapters(unbroken))
    ours, theirs = summary(tmp_path), summary(unbroken)
    for key in ("epochs", "accuracy_before", "accuracy_after", "reward_by_agent", "actions"):
        assert ours[key] == theirs[key], key


def test_epochs_do_train(unbroken: Path):
    """Otherwise the test above could not fail."""
    checkpoints = saved(unbroken / "checkpoints")[-2:]
    assert [c.name for c in checkpoints] == ["epoch=2", "epoch=3"]
    first, last = ({p.parent.name: p.read_bytes() for p in c.rglob("*.safetensors")} for c in checkpoints)
    assert all(first[agent] != last[agent] for agent in ("solver", "executor", "verifier"))
    assert not list(checkpoints[-1].rglob("model*.safetensors"))
    assert sum(p.stat().st_size for p in checkpoints[-1].rglob("*") if p.is_file()) < 8_000_000


def scalars(folder: Path, key: str) -> dict[int, float]:
    """Step -> value, over all lives of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in sorted(folder.rglob("events*")):
        events = EventAccumulator(str(path))
        found |= {event.step: event.value for event in (events.Reload() or events).Scalars(key)}
    return found


def test_changed_rates_decay_and_epochs_count_from_the_next_update(unbroken: Path, tmp_path: Path):
    """Two of three epochs, then a third with other settings: its rates are those of a run that had them all along."""
    changed = ["module.learning_rate=5.0e-3", "module.min_learning_rate=1.0e-4", "module.weight_decay=0.1"]
    assert run([*MINI, "trainer.max_epochs=2"], tmp_path / "broken") == 0
    other = [*MINI, *changed, f"resume={tmp_path / 'broken'}"]
    assert run(other, tmp_path / "broken") == 0
    assert run([*MINI, *changed], tmp_path / "whole") == 0
    ours, theirs = (scalars(tmp_path / name, "learning_rate") for name in ("broken", "whole"))
    steps = sorted(theirs)
    assert steps == sorted(ours)
    assert [ours[step] for step in steps[-2:]] == [theirs[step] for step in steps[-2:]]
    last = torch.load(tmp_path / "broken" / "checkpoints" / "epoch=3" / "trainer.ckpt", weights_only=False)
    assert {group["weight_decay"] for state in last["optimizer_states"] for group in state["param_groups"]} == {0.1}


def test_fewer_epochs_than_were_trained_are_refused(unbroken: Path):
    with pytest.raises(CheckpointError, match=r"epoch=3 has 3 epochs behind it, but trainer.max_epochs=2; set"):
        train(compose_config([*MINI, "trainer.max_epochs=2", f"resume={unbroken}"], unbroken))


CHANGES = [pytest.param(word, marks=pytest.mark.slow) for word in ("task.validation_size=7", "data.tool_tokens=40")]


@pytest.mark.parametrize("change", ["team.agents.solver.system=Say it.", *CHANGES])
def test_stored_episodes_of_something_else_are_played_anew(change: str, tmp_path: Path):
    """Killed with a whole rollout on disk, resumed with other tasks, prompts or sampling."""
    words, path = [*MINI, "callbacks.validation.before=false"], tmp_path / "episodes" / "epoch=0001.jsonl"
    assert run(words, tmp_path, kill="judging") == -9
    before = path.read_text().splitlines()
    assert run([*words, change, "trainer.max_epochs=2", f"resume={tmp_path}"], tmp_path) == 0
    after = path.read_text().splitlines()
    assert json.loads(after[0]) != json.loads(before[0])
    seconds = [[json.loads(line)["seconds"] for line in lines[1:]] for lines in (before, after)]
    assert seconds[0] != seconds[1]


DEBATE = [
    "+experiment=quickstart_debate",
    "+debug=fast",
    "trainer.max_epochs=3",
    "data.tasks_per_epoch=6",
    "data.updates_per_epoch=4",
    "callbacks.validation.limit=2",
    "select=consensus",
]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["base", "fresh"])
def test_a_later_iteration_of_a_debate_too(start: str, tmp_path: Path):
    """Killed between two agents' steps, with optimizers half used and a frozen summariser at the table."""
    words, whole, broken = [*DEBATE, f"objective.start={start}"], tmp_path / "whole", tmp_path / "broken"
    assert run(words, whole) == 0
    assert run(words, broken, kill="update") == -9
    assert run([*words, f"resume={broken}"], broken) == 0
    assert equal(adapters(broken), adapters(whole))
    assert sorted(adapters(whole)) == [f"{kind}_{k}" for kind in ("critic", "generator") for k in (1, 2, 3)]
    ours, theirs = summary(broken), summary(whole)
    for key in ("epochs", "accuracy_before", "accuracy_after", "actions", "diversity"):
        assert ours[key] == theirs[key], key


OPTIMA = [
    "+experiment=quickstart_optima",
    "+debug=fast",
    "trainer.max_epochs=3",
    "data.tasks_per_epoch=3",
    "data.updates_per_epoch=4",
    "callbacks.validation.limit=2",
    "team.rounds=5",
    "select.threshold=-9",
    "reward.loss=0.0",
]
PAIRS = ["select.least=-9", "select.gap=0.0", "select.merge=0.0", "search.groups=3", "search.rollouts=2"]
TREE = ["objective=preference", *(f"objective.{word}" for word in PAIRS)]
HYBRID = ["objective=hybrid", *(f"objective.second.{word}" for word in PAIRS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "moment"),
    [
        (TREE, "rollout"),
        (TREE, "update"),
        (HYBRID, "update"),
        (HYBRID, "checkpoint"),
    ],
    ids=["tree-rollout", "tree-update", "hybrid-update", "hybrid-checkpoint"],
)
def test_trees_and_alternating_objectives_too(words: list[str], moment: str, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run([*OPTIMA, *words], whole) == 0
    assert summary(whole)["actions"]["trained"] > 0
    assert run([*OPTIMA, *words], broken, kill=moment) == -9
    assert run([*OPTIMA, *words, f"resume={broken}"], broken) == 0
    assert equal(adapters(broken), adapters(whole))
    assert (broken / "episodes" / "epoch=0001.jsonl").exists()
