"""Several ranks (processes on the CPU, gloo) do what one process does on the union of their data."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
import torch

from tests.judge.server import TOKENS_IN, TOKENS_OUT, FakeJudge
from tests.runs import adapters, run, run_ranks, summary
from tests.test_train import scalars

MINI = [
    "+experiment=quickstart",
    "+debug=fast",
    "trainer.max_epochs=1",
    "data.tasks_per_epoch=5",
    "data.samples_per_task=1",
    "data.updates_per_epoch=4",
    "module.clip_norm=1.0e9",
    "callbacks.validation.limit=6",
    "sandbox.preload=[]",
    "sandbox.warm=2",
]
"""Five episodes: two ranks hold three and two of them."""
ON_CPU = ["trainer.accelerator=cpu", "trainer.precision=32-true"]
DDP = ["trainer=ddp", *ON_CPU]
FSDP = ["trainer=fsdp", *ON_CPU]
MICRO_BATCHES = {1: "module.micro_batch_tokens=16384", 3: "module.micro_batch_tokens=120"}
"""One row is 40 to 115 tokens long, so the second budget makes every row a forward pass of its own."""


def parts(folder: Path, **more: object) -> dict[str, object]:
    return {
        "judge": {"_target_": "tests.runs.Spread"},
        "callbacks.gradients": {"_target_": "tests.runs.Gradients", "folder": str(folder)},
    } | more


OWN_WEIGHTS = {"_target_": "tests.runs.OwnWeights"}


def gradients(folder: Path) -> dict[str, torch.Tensor]:
    """All agents' gradients of the first update, each agent's in one vector."""
    return {path.stem: vector(torch.load(path)) for path in sorted((folder / "gradients").glob("*.pt"))}


def vector(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    assert run(MINI, folder, parts=parts(folder)) == 0
    return folder


def assert_same_gradients(ours: Path, theirs: Path) -> None:
    mine, reference = gradients(ours), gradients(theirs)
    assert set(mine) == set(reference) == {"solver", "executor", "verifier"}
    for agent, gradient in reference.items():
        assert gradient.norm() > 1e-3, "or the next line could not fail"
        assert (mine[agent] - gradient).norm() / gradient.norm() < 1e-5, agent


@pytest.mark.parametrize(
    ("trainer", "micro_batches"),
    [(DDP, 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((DDP, 1), (FSDP, 3), (FSDP, 1)))],
    ids=["ddp-3", "ddp-1", "fsdp-3", "fsdp-1"],
)
def test_two_ranks_are_one_process_on_the_union(trainer: list[str], micro_batches: int, single: Path, tmp_path: Path):
    engine = {"engine": OWN_WEIGHTS} if trainer is FSDP else {}
    words = [*MINI, *trainer, "trainer.devices=2", MICRO_BATCHES[micro_batches]]
    model = {"model._target_": "tests.runs.Read", "model.noted": str(tmp_path / "read")}
    assert run_ranks(words, tmp_path, 2, parts=parts(tmp_path, **engine, **model)) == [0, 0]
    assert_same_gradients(tmp_path, single)
    reading = ["0"] if trainer is FSDP else ["0", "1"]
    assert sorted(path.name for path in (tmp_path / "read").iterdir()) == reading, "shards come from the first rank"

    ours, theirs = summary(tmp_path), summary(single)
    for key in ("accuracy_before", "accuracy_after", "reward_by_agent", "actions", "validation"):
        assert ours[key] == theirs[key], key
    assert ours["actions"]["trained"] == ours["actions"]["total"], "every judged action is trained, on whichever rank"
    mine, reference = scalars(tmp_path), scalars(single)
    for agent in ("solver", "executor", "verifier"):
        assert mine[f"{agent}/loss_tokens"] == reference[f"{agent}/loss_tokens"]
    assert episode_ids(tmp_path) == episode_ids(single)
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "dtype"), [(DDP, "float32"), (DDP, "bfloat16"), (FSDP, "bfloat16")])
def test_under_bf16_mixed_two_ranks_do_what_one_does_up_to_its_rounding(trainer: list[str], dtype: str, tmp_path: Path):
    words = [*MINI, f"model.dtype={dtype}", "trainer.precision=bf16-mixed"]
    one, two = tmp_path / "one", tmp_path / "two"
    engine = {"engine": OWN_WEIGHTS} if trainer is FSDP else {}
    assert run(words, one, parts=parts(one, **engine)) == 0
    ranks = [*MINI, *trainer, "trainer.devices=2", *words[len(MINI) :]]
    assert run_ranks(ranks, two, 2, parts=parts(two, **engine)) == [0, 0]
    ours, theirs = gradients(two), gradients(one)
    for agent, gradient in theirs.items():
        assert torch.nn.functional.cosine_similarity(ours[agent], gradient, dim=0) > 0.99, agent


def episode_ids(folder: Path) -> list[str]:
    (path,) = (folder / "episodes").glob("*.jsonl")
    return [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_acts_that_begin_alike_share_rows_on_several_ranks_too(trainer: list[str], tmp_path: Path):
    words = [*MINI, "data.tasks_per_epoch=3", "data.samples_per_task=6"]
    one, two = tmp_path / "one", tmp_path / "two"
    engine = {"engine": OWN_WEIGHTS} if trainer is FSDP else {}
    assert run(words, one, parts=parts(one, **engine)) == 0
    assert run_ranks([*words, *trainer, "trainer.devices=2"], two, 2, parts=parts(two, **engine)) == [0, 0]
    assert_same_gradients(two, one)
    for folder in (one, two):
        tokens = summary(folder)["tokens"]
        assert tokens["computed"] < 0.95 * tokens["needed"]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_a_rank_without_any_action_neither_hangs_nor_counts(trainer: list[str], tmp_path: Path):
    """One episode on two ranks; a second update of the single-process run would see the same numbers."""
    words = [*MINI, "data.tasks_per_epoch=1", "data.updates_per_epoch=1", "callbacks.validation.limit=1"]
    one, two = tmp_path / "one", tmp_path / "two"
    team_scope = {"credit.scope": "team", "judge": {"_target_": "tests.test_train.Positional"}}
    assert run(words, one, parts=parts(one) | team_scope) == 0
    engine = {"engine": OWN_WEIGHTS} if trainer is FSDP else {}
    codes = run_ranks([*words, *trainer, "trainer.devices=2"], two, 2, parts=parts(two, **engine) | team_scope)
    assert codes == [0, 0]
    ours, theirs = gradients(two), gradients(one)
    for agent, gradient in theirs.items():
        assert torch.allclose(ours[agent], gradient, rtol=1e-4, atol=1e-6), agent
    assert summary(two)["actions"] == summary(one)["actions"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_run_and_another_number_of_ranks_goes_on(victim: int, tmp_path: Path):
    words = [*MINI, "trainer.max_epochs=3"]
    ddp = [*words, *DDP, "trainer.devices=2"]
    codes = run_ranks(ddp, tmp_path, 2, kill={victim: "update"}, parts={"judge": {"_target_": "tests.runs.Spread"}})
    assert codes[victim] == -9
    assert codes[1 - victim] not in (0, None), "it ended by itself, with an error"
    assert (tmp_path / "checkpoints" / "epoch=1" / "trainer.ckpt").is_file()
    resumed = [*words, f"resume={tmp_path}"]
    assert run(resumed, tmp_path, parts={"judge": {"_target_": "tests.runs.Spread"}}) == 0
    assert summary(tmp_path)["epochs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_one_rank_hands_over_to_two(trainer: list[str], tmp_path: Path):
    """Half of the run on one rank, half on two: the same weights, up to rounding, as all of it on one."""
    both = {"judge": {"_target_": "tests.runs.Spread"}, "engine": OWN_WEIGHTS}
    whole, split = tmp_path / "whole", tmp_path / "split"
    words = [*MINI, "trainer.max_epochs=2"]
    assert run(words, whole, parts=both) == 0
    assert run(words, split, kill="rollout", parts=both) == -9
    assert run_ranks([*words, *trainer, "trainer.devices=2", f"resume={split}"], split, 2, parts=both) == [0, 0]
    assert summary(split)["epochs"] == 2
    for agent, reference in adapters(whole).items():
        ours, theirs = vector(adapters(split)[agent]), vector(reference)
        assert (ours - theirs).norm() / theirs.norm() < 1e-3, agent


@pytest.mark.slow
async def test_ranks_share_one_ledger_one_budget_and_one_limit(tmp_path: Path):
    """The money is not enough for every action (a call is held at its prompt's size until its bill is known)."""
    async with FakeJudge(seconds=0.02) as server:
        dollars = 1e-3 * (TOKENS_IN + TOKENS_OUT)
        budget = 20 * dollars
        words = ["judge=openai", "judge.model=m", f"judge.base_url={server.url}", "judge.api_key_env=null"]
        words += ["judge.money.price_in=1000", "judge.money.price_out=1000", f"judge.money.budget={budget}"]
        words += ["judge.request.max_tokens=8", "judge.limits.concurrent=2", "judge.when=episode"]
        words += ["callbacks.judge.max_unjudged=1.0"]
        ranks = [*MINI, *DDP, "trainer.devices=2", *words]
        assert await asyncio.to_thread(run_ranks, ranks, tmp_path, 2) == [0, 0]
        calls = server.calls
        assert server.most_at_once <= 2
    with sqlite3.connect(tmp_path / "judge.sqlite") as ledger:
        ((recorded, cost),) = ledger.execute("select count(*), sum(cost) from calls").fetchall()
    assert recorded == calls
    assert cost == pytest.approx(calls * dollars)
    assert cost <= budget
    actions = summary(tmp_path)["actions"]
    assert 0 < actions["judged"] < actions["total"]
    assert actions["judged"] == calls - 2, "each rank makes one call before the first rollout"


SELECTING = {
    "debate": ["+experiment=quickstart_debate", "select=consensus", "objective.passes=1"],
    "dialogue": ["+experiment=quickstart_optima", "select.threshold=-9", "team.rounds=5", "objective.passes=1"],
    "tree": [
        *("+experiment=quickstart_optima", "objective=preference", "team.rounds=5", "objective.search.groups=2"),
        *("objective.select.least=-9", "objective.select.gap=0.0", "objective.select.share=1.0"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("system", SELECTING)
def test_two_ranks_select_and_learn_what_one_process_does(system: str, tmp_path: Path):
    """Votes and ratings are decided on everyone's numbers; attempts of a tree stay on one rank."""
    words = [
        *(*SELECTING[system], "+debug=fast", "trainer.max_epochs=1", "data.tasks_per_epoch=5"),
        *("data.updates_per_epoch=1", "module.clip_norm=1.0e9", "callbacks.validation.limit=6"),
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    watched = {folder: {"callbacks.gradients": parts(folder)["callbacks.gradients"]} for folder in (one, two)}
    assert run(words, one, parts=watched[one]) == 0
    assert run_ranks([*words, *DDP, "trainer.devices=2"], two, 2, parts=watched[two]) == [0, 0]
    ours, theirs = gradients(two), gradients(one)
    assert set(ours) == set(theirs)
    assert theirs, "or the next line could not fail"
    for agent, gradient in theirs.items():
        assert gradient.norm() > 1e-3
        assert (ours[agent] - gradient).norm() / gradient.norm() < 1e-4, agent
    assert summary(two)["actions"] == summary(one)["actions"]
    assert episode_ids(two) == episode_ids(one)
