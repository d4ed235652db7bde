"""Multiagent Finetuning's arms are words on the command line: each runs here in miniature, with the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mappa.checkpoint import saved
from mappa.play.episodes import read_episodes
from mappa.train import train
from mappa.types import BASE
from tests.conftest import compose_config, write_hydra_folder
from tests.runs import adapters, run, summary
from tests.test_train import scalars

MINI = [
    "+experiment=quickstart_debate",
    "+debug=fast",
    "data.tasks_per_epoch=6",
    "data.updates_per_epoch=4",
    "callbacks.validation.limit=4",
    "select=consensus",
]
SIX = {f"{kind}_{k}" for kind in ("generator", "critic") for k in (1, 2, 3)}
ALL, SHARED = SIX, {"agent"}
ARMS = {
    "full": ([], ALL),
    "star": (["team=tiny_star", "select=graded", "objective.start=base"], {"solver"}),
    "majority_ft": (["team.rounds=1", "team.shared=true"], SHARED),
    "single_agent_ft": (["team.shared=true"], SHARED),
    "no_summary": (["team.summariser=null"], ALL),
    "no_critic": (["team.critic=null"], {"generator_1", "generator_2", "generator_3"}),
    "five_agents": (["team.size=5"], {f"{kind}_{k}" for kind in ("generator", "critic") for k in range(1, 6)}),
    "cooperative": (["team.reply='All work together. Others: {{heard}}'"], ALL),
    "unique_id": (["team.shared=true", "team.generator.prompt='{{seat}}: {{task}}'"], SHARED),
    "one_iteration": (["trainer.max_epochs=1"], ALL),
    "untrained": (["trainer.max_epochs=0"], set()),
    "untrained_vote": (["trainer.max_epochs=0", "team.rounds=1"], set()),
}
SLOW = [pytest.param(name, marks=[] if name == "star" else pytest.mark.slow) for name in ARMS]


@pytest.mark.parametrize("arm", SLOW)
def test_every_arm_is_words_alone(arm: str, tmp_path: Path):
    words, trained = ARMS[arm]
    mini = [word for word in MINI if word != "select=consensus" or "select=graded" not in words]
    assert run([*mini, *words], tmp_path) == 0
    found = summary(tmp_path)
    assert found["accuracy_before"]["n"] == 4
    if not trained:
        assert found["epochs"] == 0
        assert [path.name for path in saved(tmp_path / "checkpoints")] == ["epoch=0"]
    else:
        assert set(adapters(tmp_path)) == trained
        assert found["actions"]["trained"] > 0
        assert found["judge"]["calls"] == 0
    if arm != "star":
        assert {"single", "majority", "debate"} <= set(found["diversity"][0])


def test_what_a_debate_leaves_on_disk(tmp_path: Path):
    cfg = compose_config(MINI, tmp_path)
    write_hydra_folder(cfg, tmp_path)
    train(cfg)
    found = summary(tmp_path)
    assert [result["epoch"] for result in found["diversity"]] == [0, 2]
    last = found["diversity"][-1]
    assert last["debate"]["mean"] == found["accuracy_after"]["mean"]
    assert {"consensus", "majority_share", "likelihood", "kl", "entropy", "embedding"} <= set(last)
    assert found["diversity"][0]["kl"] == pytest.approx(0.0, abs=1e-6), "all agents are the base before training"
    numbers = scalars(tmp_path)
    assert {"diversity/arithmetic/kl", "diversity/arithmetic/single", "generator_1/nll", "select/kept_episodes"} <= set(
        numbers
    )
    assert "generator_1/unjudged_fraction" not in numbers, "there is no judge"
    drawn = (tmp_path / "learning_curve.svg").read_text()
    assert "their vote" in drawn
    assert "consensus (max" in drawn

    episodes = read_episodes(tmp_path / "episodes" / "epoch=0001.jsonl")
    actions = [action for episode in episodes for action in episode.actions]
    assert {a.seat for a in actions if a.agent == BASE} == {"summariser"}
    lines = [json.loads(line) for line in (tmp_path / "episodes" / "epoch=0001.jsonl").read_text().splitlines()[1:]]
    learned = [a for line in lines for a in line["actions"] if a["advantages"] is not None]
    assert learned
    assert all(a["agent"] != BASE for a in learned), "the frozen base is never learned from"

    from mappa.evaluate import evaluate

    graded = evaluate([f"run={tmp_path}", "limit=2", "task.largest=4", "task.seed=1"])
    transferred = json.loads((graded / "summary.json").read_text())
    assert transferred["diversity"][0]["debate"]["n"] == 2


def test_an_epoch_that_keeps_nothing_is_no_update_and_three_stop_the_run(tmp_path: Path, caplog):
    from mappa.errors import SelectionError

    few = ["data.tasks_per_epoch=2", "data.updates_per_epoch=2", "callbacks.validation.limit=1"]
    cfg = compose_config([*MINI, *few, "trainer.max_epochs=5", "select.min_votes=9"], tmp_path)
    with pytest.raises(SelectionError, match="3 epochs in a row kept nothing to learn from"):
        train(cfg)
    told = [r.message for r in caplog.records if "nothing was kept to learn from" in r.message]
    assert [line.partition(":")[0] for line in told] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [path.name for path in saved(tmp_path / "checkpoints")[-2:]] == ["epoch=1", "epoch=2"]


@pytest.mark.slow
def test_a_first_iteration_from_another_runs_episodes_and_one_from_a_teacher(tmp_path: Path):
    """The teacher here is a second engine on the base model, which says what it is asked and is counted."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert run([*MINI, "trainer.max_epochs=1"], first) == 0
    assert run([*MINI, f"data.stored={first}"], second) == 0
    stored = read_episodes(first / "episodes" / "epoch=0000.jsonl")
    assert read_episodes(second / "episodes" / "epoch=0000.jsonl") == stored
    assert summary(second)["actions"]["trained"] > summary(first)["actions"]["trained"]

    teacher = {"_target_": "tests.test_debate_runs.Teacher"}
    student = {"_target_": "mappa.engine.hf.HFEngine"}
    engine = {"_target_": "mappa.engine.teacher.TeacherEngine", "student": student, "teacher": teacher}
    assert run(MINI, third, parts={"engine": engine}) == 0
    said = [
        {a.text for e in read_episodes(third / "episodes" / f"epoch={n:04d}.jsonl") for a in e.actions} for n in (0, 1)
    ]
    assert said[0] == {r"\boxed{5}"}
    assert said[1] != said[0]
    assert summary(third)["actions"]["trained"] > 0


class Teacher:
    """Always the same answer, with no log-probabilities to speak of."""

    def __new__(cls):
        from mappa.engine.base import BaseEngine, Completion
        from mappa.types import StopReason

        class Fixed(BaseEngine):
            context_length = 256
            takes_weights = False

            def attach(self, adapters, chat, model_path):
                self._chat = chat

            async def sync(self, version):
                pass

            async def generate(self, agent, prompt_ids, sampling):
                ids = (*self._chat.tokenizer.encode(r"\boxed{5}", add_special_tokens=False), self._chat.eos_id)
                return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)

        return Fixed()
