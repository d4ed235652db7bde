"""Optima's arms, and MALT, are words on the command line: each runs here in miniature, with the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mappa.config import ASSETS
from mappa.play.agent import SHARED
from mappa.play.episodes import read_episodes
from mappa.train import train
from tests.conftest import compose_config, write_hydra_folder
from tests.runs import adapters, run, summary
from tests.test_resume import HYBRID, OPTIMA, TREE
from tests.test_train import scalars

MINI = [word for word in OPTIMA if not word.startswith("trainer.")] + ["trainer.max_epochs=2"]
MALT = [
    "+experiment=malt",
    "+debug=fast",
    "task=relay",
    f"model.path={ASSETS / 'tiny_relay'}",
    "model.dtype=float32",
    "engine=hf",
    "trainer=cpu",
    "objective.search.width=2",
    *(
        f"team.agents.{seat}.{word}"
        for seat in ("generator", "verifier", "refiner")
        for word in ("system=''", "max_tokens=8")
    ),
    "team.agents.generator.prompt='{{task}}'",
    "team.agents.verifier.prompt='{{generator}}'",
    "team.agents.refiner.prompt='{{verifier}}'",
    "objective.select.least=-1",
    "data.updates_per_epoch=2",
    "callbacks.validation.limit=2",
]
ARMS = {
    "isft": MINI,
    "idpo": [*MINI, "objective=idpo", *HYBRID[1:]],
    "no_task_term": [*MINI, "reward.task=0"],
    "no_token_term": [*MINI, "reward.tokens=0"],
    "weighted": [
        *(word for word in MINI if not word.startswith("reward.")),
        "reward=weighted",
        "reward.pattern='.*#.*'",
    ],
    "grade": [*(word for word in MINI if not word.startswith("reward.")), "reward=grade"],
    "manners": [*MINI, "team.manners=[Be brief.,Use JSON.]"],
    "rl": [
        *(word for word in MINI if not word.startswith("select.")),
        "objective=rated_policy_gradient",
        "data.samples_per_task=3",
    ],
    "malt": MALT,
}
FAST = ("malt",)


@pytest.mark.parametrize("arm", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in ARMS])
def test_every_arm_is_words_alone(arm: str, tmp_path: Path):
    assert run(ARMS[arm], tmp_path) == 0
    found = summary(tmp_path)
    assert found["tokens_before"]["mean"] > 0
    expected = {"generator", "verifier", "refiner"} if arm == "malt" else {SHARED}
    if arm != "malt":  # there an untrained model may leave no pair that differs
        assert found["actions"]["trained"] > 0
        assert set(adapters(tmp_path)) == expected
    if arm == "manners":
        hinted = [
            {
                a.plain_ids is not None
                for e in read_episodes(tmp_path / "episodes" / f"epoch={n:04d}.jsonl")
                for a in e.actions
            }
            for n in (0, 1)
        ]
        assert hinted == [{True}, {False}]


def test_what_a_tree_leaves_on_disk(tmp_path: Path):
    cfg = compose_config([*MINI, *TREE], tmp_path)
    write_hydra_folder(cfg, tmp_path)
    train(cfg)
    episodes = read_episodes(tmp_path / "episodes" / "epoch=0001.jsonl")
    assert len(episodes) == 3 * 6
    own = [action.id for episode in episodes for action in episode.own]
    assert len(own) == len(set(own))
    assert any(episode.parent for episode in episodes)
    numbers = scalars(tmp_path)
    assert {
        "reward/total",
        "reward/lm_loss",
        "reward/spent",
        "select/pairs",
        "agent/margin",
        "validation/relay/tokens",
    } <= set(numbers)
    found = summary(tmp_path)
    assert found["tokens_after"]["n"] == 2
    first = read_episodes(tmp_path / "episodes" / "epoch=0000.jsonl")
    assert found["actions"]["total"] == len(own) + sum(len(episode.own) for episode in first)

    from mappa.evaluate import evaluate

    graded = evaluate([f"run={tmp_path}", "task.kind=chain", "limit=2"])
    assert json.loads((graded / "summary.json").read_text())["validation"][0]["name"] == "relay_aliases"
