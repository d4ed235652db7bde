"""The whole quickstart in miniature: real trainer, real kernels, real model; and invariants of the update."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from callbacks import find
from callbacks.judge import JudgeCallback
from callbacks.validation import ValidationCallback
from mappa.checkpoint import chosen_checkpoint
from mappa.config import ASSETS, make
from mappa.engine.hf import HFEngine
from mappa.errors import CheckpointError, ConfigError, EngineError, RolloutError
from mappa.judge.base import BaseJudge
from mappa.learn.batch import collate
from mappa.learn.canary import check_voices
from mappa.learn.packing import computed_tokens, cut_micro_batches
from mappa.learn.rows import Row
from mappa.play.episodes import read_episodes
from mappa.policy.attention import Packing
from mappa.task.arithmetic import Arithmetic
from mappa.train import build, cheap_parts, train
from mappa.types import BASE, Verdict
from tests.conftest import REPO, write_hydra_folder
from tests.runs import Spread

GOLDEN = REPO / "tests" / "golden" / "ten_steps.json"


class Unable(BaseJudge):
    """Never gives a verdict."""

    id = "unable"

    async def score(self, evidence):
        return Verdict(None, "out of order", self.id)


class Positional(BaseJudge):
    """Scores an agent's first turn 10 and every later one 0."""

    id = "positional"

    async def score(self, evidence):
        return Verdict(0.0 if evidence.action.turn else 10.0, "", self.id)


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {key: [event.value for event in events.Scalars(key)] for key in events.Tags()["scalars"]}


def base_hash() -> str:
    return hashlib.sha256((ASSETS / "tiny" / "model.safetensors").read_bytes()).hexdigest()


def test_validation_at_temperature_zero_decodes_greedily(mini: Callable[..., DictConfig]):
    """The tiny team was taught its job: its likeliest words are never all wrong."""
    cfg = mini("trainer.max_epochs=0", "callbacks.validation.temperature=0", "callbacks.validation.limit=12")
    assert json.loads((train(cfg) / "summary.json").read_text())["accuracy_before"]["mean"] > 0.3


def test_the_best_checkpoint_stays(mini: Callable[..., DictConfig]):
    """By a measure that falls from epoch to epoch, as it is written into the results before each checkpoint."""

    class Falling(Callback):
        def on_validation_end(self, trainer, pl_module):
            result = find(trainer, ValidationCallback).results[-1]
            result.accuracy["mean"] = 2.0 / result.epoch if result.epoch else 0.0

    cfg = mini("trainer.max_epochs=4", "callbacks.validation.every_n_epochs=1", "callbacks.validation.limit=1")
    OmegaConf.update(cfg, "callbacks.checkpoint.keep", 1)
    data, module = build(cfg, cheap_parts(cfg))
    try:
        callbacks = [
            make(cfg.callbacks.judge),
            make(cfg.callbacks.validation),
            Falling(),
            make(cfg.callbacks.checkpoint),
        ]
        make(cfg.trainer, callbacks=callbacks, logger=False).fit(module, data)
    finally:
        data.close()
    run = Path(cfg.paths.run)
    write_hydra_folder(cfg, run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"epoch=1", "epoch=4", "best.json"}
    assert chosen_checkpoint(run, "best").name == chosen_checkpoint(run, "1").name == "epoch=1"
    assert chosen_checkpoint(run, "last").name == "epoch=4"
    with pytest.raises(CheckpointError, match=r"has no checkpoint=3; available: best, last, 1, 4"):
        chosen_checkpoint(run, "3")


def test_a_best_that_no_validation_measures_is_refused(mini: Callable[..., DictConfig]):
    with pytest.raises(
        ConfigError, match=r"checkpoint.best=rmse is no measure of arithmetic; available: accuracy, avg@1"
    ):
        train(mini("trainer.max_epochs=1", "callbacks.checkpoint.best=rmse"))


def test_the_quickstart_alone(mini: Callable[..., DictConfig]):
    cfg = mini("team=solo", "trainer.max_epochs=1", "callbacks.validation.limit=2")
    summary = json.loads((train(cfg) / "summary.json").read_text())
    assert set(summary["reward_by_agent"]["last"]) == {"solo"}
    assert summary["actions"]["judged"] > 0


def test_quickstart_in_miniature(mini: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = base_hash()
    cfg = mini()
    folder = train(cfg)
    write_hydra_folder(cfg, folder)
    assert base_hash() == before

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["experiment"] == "quickstart"
    assert summary["epochs"] == 2
    assert set(summary["accuracy_before"]) == {"mean", "low", "high", "n"}
    assert summary["accuracy_after"]["n"] == 4
    assert set(summary["reward_by_agent"]["last"]) == {"solver", "executor", "verifier"}
    assert summary["actions"]["total"] == summary["actions"]["judged"] >= 24
    assert summary["judge"]["failed"] == 0
    assert 0 < summary["tokens"]["needed"] <= summary["tokens"]["computed"] <= 1.1 * summary["tokens"]["needed"]
    assert summary["sandbox"]["executions"] >= 8
    assert summary["sandbox"]["isolation"] in ("namespace", "process")
    assert {"mappa", "torch", "lightning", "transformers", "peft"} <= set(summary["versions"])

    lines = [json.loads(line) for line in (folder / "episodes" / "epoch=0001.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + 4
    action = lines[1]["actions"][0]
    assert action["verdict"]["reason"]
    assert len(action["advantages"]) == len(action["completion_ids"])

    numbers = scalars(folder)
    for agent in ("solver", "executor", "verifier"):
        for key in (
            "token_share",
            "reward",
            "reward_std",
            "kl",
            "entropy",
            "ratio",
            "clip_fraction",
            "grad_norm",
            "completion_tokens",
        ):
            assert f"{agent}/{key}" in numbers, f"{agent}/{key}"
        assert numbers[f"{agent}/engine_mismatch"][0] < 1e-4
    assert {f"seconds/{p}" for p in ("generate", "tool", "judge", "update", "sync")} <= set(numbers)

    from mappa.compare import compare, read
    from mappa.evaluate import evaluate, measures

    graded = evaluate([f"run={folder}", "samples=2", "limit=3"])
    found = json.loads((graded / "summary.json").read_text())
    assert (found["graded"], found["accuracy_before"]) == (f"{folder}/checkpoints/epoch=2", None)
    assert found["accuracy_after"]["n"] == 3
    assert [path.name for path in graded.glob("*.jsonl")] == ["arithmetic-epoch=0002.jsonl"]
    assert re.search(r"^ +2 +\d\.\d+", capsys.readouterr().out, re.MULTILINE), "the table's epoch"
    untrained = evaluate([f"run={folder}", "adapters=none", "limit=2"])
    bare = json.loads((untrained / "summary.json").read_text())
    assert (bare["graded"], bare["accuracy_after"], bare["accuracy_before"]["n"]) == ("the untrained base", None, 2)
    result = found["validation"][0]
    said = read_episodes(graded / "transcripts" / "arithmetic-epoch=0002.jsonl")
    assert len(said) == 6
    assert all(episode.actions and episode.actions[0].text for episode in said)
    with pytest.raises(CheckpointError, match=r"has no checkpoint=7; available: best, last, (0, )?1, 2"):
        evaluate([f"run={folder}", "checkpoint=7"])
    assert set(result["measures"]) == {"avg@2", "pass@2", "maj@2"}
    assert result["measures"]["avg@2"]["n"] == 3
    assert [line.split()[1] for line in measures(graded)] == ["avg@2", "pass@2", "maj@2"]
    assert compare(read(graded, prompts=True), read(graded, prompts=True))["difference"]["mean"] == 0.0
    with pytest.raises(CheckpointError, match=r"no adapter for agent 'solo'"):
        evaluate([f"run={folder}", "team=solo"])
    alone = evaluate([f"run={folder}", "team=solo", "adapters=none", "limit=2"])
    said = read_episodes(alone / "transcripts" / "arithmetic-epoch=0000.jsonl")
    assert {action.agent for episode in said for action in episode.actions} == {"solo"}
    with pytest.raises(ConfigError, match="graded by the task, without a judge"):
        evaluate([f"run={folder}", "judge=outcome"])


@pytest.fixture
def fitted(mini: Callable[..., DictConfig]):
    """Collect one epoch with a given judge and hand out module and data before the update."""
    made = []

    def make(*overrides: str, judge: BaseJudge | None = None):
        from hydra.utils import instantiate

        cfg = mini("callbacks.validation.before=false", "data.updates_per_epoch=1", *overrides)
        torch.set_num_threads(1)
        data, module = build(cfg, cheap_parts(cfg))
        made.append(data)
        judge = JudgeCallback(judge or instantiate(cfg.judge), max_unjudged=1.0)
        settings = OmegaConf.merge(cfg.trainer, {"max_epochs": 1, "enable_checkpointing": False})
        trainer = instantiate(settings, callbacks=[judge], logger=False)
        return module, data, trainer

    yield make
    for data in made:
        data.close()


def gradients(fitted, *overrides: str) -> dict[str, torch.Tensor]:
    """Each agent's clipped gradient at its first optimizer step."""
    found: dict[str, torch.Tensor] = {}
    module, data, trainer = fitted(*overrides, judge=Spread())
    original = module._clip

    def clip(agent: str) -> float:
        norm = original(agent)
        found.setdefault(agent, torch.cat([p.grad.flatten() for p in module.adapters.parameters(agent)]).clone())
        return norm

    module._clip = clip
    trainer.fit(module, data)
    return found


def test_accumulation_and_padding_change_nothing(fitted):
    """One padded micro-batch, or one micro-batch per action without any padding: the same gradient."""
    whole = gradients(fitted, "module.micro_batch_tokens=100000")
    single = gradients(fitted, "module.micro_batch_tokens=1")
    assert set(whole) == {"solver", "executor", "verifier"}
    for agent, gradient in whole.items():
        assert gradient.norm() > 1e-3
        assert (gradient - single[agent]).norm() / gradient.norm() < 1e-5


def test_acts_as_rows_and_agents_in_one_pass_change_nothing(fitted):
    """The same loss and gradient as from a row for every action, and a pass for every agent; samples share prompts."""
    module, _, trainer = found = fitted("data.tasks_per_epoch=3", "data.samples_per_task=6", judge=Spread())
    losses, seen = {}, {}

    def training_step(rows: list[Row], batch_idx: int) -> None:
        sizes = {agent: module.turn.size([row for row in rows if row.agent == agent]) for agent in module.agents}
        alone = [replace(row, group=row.sample.action.id) for row in rows]
        with module.adapters.disturbed():
            ways = {"shared": Packing.SHARED, "full": Packing.FULL, "merged": Packing.ALONE, "alone": Packing.ALONE}
            for name, packing in ways.items():
                form, mix = (alone, False) if name == "alone" else (rows, True)
                sums: dict[str, torch.Tensor] = {}
                micro = cut_micro_batches(form, 10_000, mix=mix, packing=packing)
                for part in micro:
                    module.manual_backward(module._loss(collate(part, module.chat.pad_id), sizes, sums))
                losses[name] = {agent: sums[f"{agent}/loss"].item() for agent in module.agents}
                seen[name] = {agent: [p.grad for p in module.adapters.parameters(agent)] for agent in module.agents}
                module.zero_grad()
                seen[f"{name} rows"], seen[f"{name} tokens"] = sum(map(len, micro)), computed_tokens(micro)

    module.training_step = training_step
    trainer.fit(*found[:2])
    assert seen["full rows"] < seen["shared rows"] < seen["merged rows"] < seen["alone rows"]
    assert seen["shared tokens"] < 0.9 * seen["merged tokens"]
    for agent in module.agents:
        theirs = torch.cat([g.flatten() for g in seen["alone"][agent]])
        assert theirs.norm() > 1e-3
        for name, rounding in (("full", 1e-5), ("shared", 1e-5), ("merged", 2e-6)):
            assert losses[name][agent] == pytest.approx(losses["alone"][agent], abs=1e-6)
            ours = torch.cat([g.flatten() for g in seen[name][agent]])
            assert (ours - theirs).norm() / theirs.norm() < rounding


def test_an_unjudged_action_changes_no_weight(fitted):
    module, data, trainer = fitted(judge=Unable())
    trainer.fit(module, data)
    fresh, _, _ = fitted()
    fresh.configure_model()
    assert module.adapters.fingerprint() == fresh.adapters.fingerprint()
    assert module.version == 1  # the schedule went on


def test_per_action_credit_is_not_broadcast(fitted):
    module, data, trainer = fitted("data.tasks_per_epoch=3", judge=Positional())
    trainer.fit(module, data)
    by_episode: dict[str, dict[int, float]] = {}
    for row in data.rows:
        action = row.sample.action
        if action.agent == "executor":
            by_episode.setdefault(action.id.partition("/")[0], {})[action.turn] = row.advantages.mean().item()
    both = [turns for turns in by_episode.values() if len(turns) == 2]
    assert both
    assert all(turns[0] > 0 and turns[1] < turns[0] - 1 for turns in both)


def test_the_base_never_changes_and_every_agent_does(fitted):
    module, data, trainer = fitted(judge=Spread())
    module.configure_model()
    base = {n: p.detach().clone() for n, p in module.adapters.model.named_parameters() if "lora_" not in n}
    before = {a: [p.detach().clone() for p in module.adapters.parameters(a)] for a in module.agents}
    trainer.fit(module, data)
    assert all(torch.equal(p, base[n]) for n, p in module.adapters.model.named_parameters() if n in base)
    for agent in module.agents:
        pairs = zip(before[agent], module.adapters.parameters(agent), strict=True)
        assert any(not torch.equal(old, new) for old, new in pairs)


@pytest.mark.parametrize("credit", ["reinforce_pp_baseline", pytest.param("grpo", marks=pytest.mark.slow)])
def test_other_credit_schemes_train(credit: str, fitted):
    module, data, trainer = fitted(f"credit={credit}", "data.updates_per_epoch=2")
    trainer.fit(module, data)
    assert module.version == 2
    assert all(row.ref_logprobs is not None and row.old_logprobs is not None for row in data.rows)


def test_an_over_long_prompt_is_an_error_of_that_episode(fitted):
    module, data, trainer = fitted("team.agents.verifier.max_tokens=970", "data.max_failed=1")
    trainer.fit(module, data)
    assert len(data.episodes) == 4
    assert all("exceeds the context of 1024 tokens" in episode.error for episode in data.episodes)
    assert all(len(episode.actions) >= 2 for episode in data.episodes)  # what was finished is judged and trained
    assert {row.sample.action.agent for row in data.rows} == {"solver", "executor"}


class Broken(Arithmetic):
    """Its grader has a mistake in it."""

    def grade(self, task, answer, workspace):
        return {}["score"]


def test_a_grader_that_always_fails_is_one_line(mini: Callable[..., DictConfig]):
    cfg = mini("callbacks.validation.before=false")
    cfg.task._target_ = "tests.test_train.Broken"
    with pytest.raises(RolloutError, match=r"^4 of 4 episodes .*the first: the grader failed: KeyError: 'score'"):
        train(cfg)


def test_a_run_in_which_every_episode_fails_stops_and_is_resumed(mini: Callable[..., DictConfig], tmp_path: Path):
    """The verifier's budget leaves no room for its prompt: no epoch is consumed, nothing is stored."""
    more = ["callbacks.validation.before=false", "callbacks.checkpoint.every_n_epochs=2", "trainer.max_epochs=2"]
    cfg = mini(*more, "team.agents.verifier.max_tokens=970")
    with pytest.raises(RolloutError, match=r"^4 of 4 episodes of epoch 0 failed, .*the first: prompt of"):
        train(cfg)
    folder = tmp_path / "run"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch=0"]
    assert not (folder / "episodes").exists()
    write_hydra_folder(cfg, folder)
    train(mini(*more, f"resume={folder}"))
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2


def test_outcome_judge_gives_all_actions_of_an_episode_the_same(fitted):
    module, data, trainer = fitted("judge=outcome")
    trainer.fit(module, data)
    for episode in data.episodes:
        assert {data.verdicts[a.id].score for a in episode.actions} == {10.0 * episode.grade.score}


def test_golden_curve_of_ten_steps(mini: Callable[..., DictConfig], tmp_path: Path):
    """Ten updates with every number pinned; after a change on purpose delete the file and run this twice."""
    cfg = mini("trainer.max_epochs=10", "data.tasks_per_epoch=2", "data.updates_per_epoch=1")
    cfg.callbacks = {"judge": cfg.callbacks.judge}
    folder = train(cfg)
    numbers = scalars(folder)
    keys = [f"{a}/{k}" for a in ("solver", "executor", "verifier") for k in ("reward", "grad_norm", "entropy", "kl")]
    curve = {key: numbers[key] for key in keys if key in numbers}
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps({key: [round(v, 6) for v in values] for key, values in curve.items()}, indent=1))
        pytest.fail("tests/golden/ten_steps.json was missing and has been written; look at it and run again")
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) == set(curve)
    for key, values in golden.items():
        assert curve[key] == pytest.approx(values, rel=2e-2, abs=2e-3), key


def test_an_engine_that_disagrees_is_found_before_the_first_update(fitted):
    module, data, trainer = fitted("module.temperature=5.0")  # the engine samples at 1.0
    before = base_hash()
    with pytest.raises(EngineError, match=r"disagree about agent '\w+' by .* nats per token"):
        trainer.fit(module, data)
    assert module.version == 0
    assert base_hash() == before


class Deaf(HFEngine):
    """Ignores the adapters."""

    async def generate(self, agent, prompt_ids, sampling):
        return await super().generate(BASE, prompt_ids, sampling)


class Swapped(HFEngine):
    """Takes two agents for one another."""

    async def generate(self, agent, prompt_ids, sampling):
        other = {"solver": "verifier", "verifier": "solver"}.get(agent, agent)
        return await super().generate(other, prompt_ids, sampling)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("Deaf", "asked for agent 'solver', the engine speaks as the base, without an adapter"),
        ("Swapped", "asked for agent 'solver', the engine speaks as agent 'verifier'"),
    ],
)
def test_an_engine_with_the_wrong_adapters_is_found_before_anything_is_played(engine: str, message: str, fitted):
    """At the start every adapter changes nothing, so what is said would not show it."""
    module, data, trainer = fitted(f"engine._target_=tests.test_train.{engine}")
    with pytest.raises(EngineError, match=message):
        trainer.fit(module, data)
    fresh, _, _ = fitted()
    fresh.configure_model()
    assert data.episodes == []
    assert module.adapters.fingerprint() == fresh.adapters.fingerprint()


def test_the_engine_is_heard_with_trained_adapters_too_and_they_stay_as_they_are(fitted):
    module, data, trainer = fitted()
    trainer.fit(module, data)
    before = module.adapters.fingerprint()
    check_voices(data.engine, data.loop, module.policies, module.chat, module.version)
    assert module.adapters.fingerprint() == before
    with module.adapters.disturbed():
        assert module.adapters.fingerprint() != before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_said_before_the_update_has_the_updates_precision(dtype: str, fitted):
    """Under bf16-mixed: log-probabilities outside of the training step and inside of it, without any update between.

    Each act by itself, so that not a bit depends on those beside it.
    """
    words = ("trainer.precision=bf16-mixed", f"model.dtype={dtype}", "module.micro_batch_tokens=1")
    module, data, trainer = fitted(*words, judge=Spread())
    before: dict[str, torch.Tensor] = {}
    gaps: list[float] = []
    make_rows = module.objective.rows

    def rows(made):
        made.policies._packing = Packing.ALONE
        samples = made.samples()
        before.update(zip((s.action.id for s in samples), made.policies.now(samples), strict=True))
        return make_rows(made)

    def training_step(batch, batch_idx):
        inside = module.policies.now([row.sample for row in batch])
        gaps.extend((o - before[row.sample.action.id]).abs().max() for o, row in zip(inside, batch, strict=True))

    module.objective.rows, module.training_step = rows, training_step
    trainer.fit(module, data)
    assert len(gaps) >= 12
    assert max(gaps) == 0


def test_under_autocast_the_engine_says_what_the_update_sees(fitted):
    module, data, trainer = fitted("trainer.precision=bf16-mixed", judge=Spread())
    seen: list[float] = []
    log = module.log_dict
    module.log_dict = lambda numbers, **how: (
        seen.extend(value for key, value in numbers.items() if key.endswith("/engine_mismatch")) or log(numbers, **how)
    )
    trainer.fit(module, data)
    assert len(seen) == 3
    assert max(seen) < 1e-4


def test_verdict_of_a_truncated_action_is_not_trained():
    from tests.conftest import make_action, make_sample

    sample = make_sample(1.0)
    assert sample.valid
    from mappa.types import StopReason

    assert not replace(sample, action=make_action(stop=StopReason.LENGTH)).valid
