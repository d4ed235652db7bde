"""The planner's memory against what really is taken, and what it says of runs that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.errors import HydraException

from mappa.bench.planned import Case, folder_of, planned_and_measured
from mappa.errors import ConfigError
from mappa.plan import estimate, plan


def qwen3_4b(folder: Path, **changes: int) -> str:
    """A folder with the config of such a model and nothing else."""
    path = Path(folder_of("qwen3_4b", folder)) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize(("shape", "rows", "length"), [("tiny", 64, 200), ("tiny", 4, 3000), ("qwen3_0_6b", 2, 256)])
def test_the_memory_of_an_update(shape: str, rows: int, length: int, again: bool, tmp_path: Path):
    sizes, real = planned_and_measured(Case(shape, rows, length, again), "float32", tmp_path)
    assert sizes.update == pytest.approx(real["bytes"], rel=0.1)


@pytest.fixture
def papers_run(tmp_path: Path) -> list[str]:
    return ["+experiment=mathchat", "model=qwen3_4b", f"model.path={qwen3_4b(tmp_path / 'model')}"]


@pytest.fixture
def shallow(tmp_path: Path) -> list[str]:
    """The paper's run on a model of few layers: every layer is passed through op by op."""
    return ["+experiment=mathchat", "model=qwen3_4b", f"model.path={qwen3_4b(tmp_path / 'model', num_hidden_layers=2)}"]


def test_the_papers_run_fits_on_80_gb(papers_run: list[str]):
    numbers, fits = plan([*papers_run, "problems=147"])
    assert fits
    assert numbers["model"]["parameters"] == 4_022_468_096  # Qwen3-4B's own
    assert numbers["an epoch, 50% of each budget used"] == {
        "episodes": 64,
        "actions": 256,
        "learning_actions": 256,
        "completion_tokens": 64 * 4 * 2048,
        "trained_tokens": 64 * (3 * (512 + 2048) + (2 + 3) * 2048 + (1 + 2) * 1024),  # the executor's turns: one row
    }
    run = numbers["the run"]
    assert run["judge calls, at most"] == 256 * 128
    assert run["judge dollars, at most"] == pytest.approx(256 * 128 * (3000 * 0.3 + 300 * 2.5) / 1e6)
    assert run["validation episodes"] == 33 * 147 * 4  # before, and after every 4 of 128 epochs
    assert run["hours"] == run["hours of training"] + run["hours of validation"]
    per_episode = run["hours of validation"] * 3600 / run["validation episodes"]
    assert per_episode == pytest.approx(numbers["seconds an epoch"]["generate"] / 64)


def test_held_out_problems_that_cannot_be_counted_are_not_none(shallow: list[str]):
    run = plan([*shallow, "task.data_dir=/nowhere"])[0]["the run"]
    assert run["validation episodes"].startswith("not known, say problems=N (")
    assert run["hours"] is run["hours of validation"] is None


def test_the_quickstarts_validation_is_counted():
    run = plan(["+experiment=quickstart"])[0]["the run"]
    assert run["validation episodes"] == 3 * 200  # before, after epochs 7 and 14
    assert plan(["+experiment=quickstart", "callbacks.validation=null"])[0]["the run"]["validation episodes"] == 0


def test_memory_is_that_of_the_longest_row(shallow: list[str]):
    """A row longer than a micro-batch gets one of its own: lowering the budget does not lower the peak."""
    numbers, _ = plan(shallow)
    longest = 512 + 4096 + 2 * (4096 + 2048) + 4096
    assert numbers["tokens"] == {"longest row learned, at most": longest, "micro-batch": longest}
    lower, _ = plan([*shallow, "module.micro_batch_tokens=1024"])
    assert _peak(lower) == _peak(numbers)
    longer, _ = plan([*shallow, "team.agents.solver.max_tokens=16384"])
    assert _peak(longer) > 1.1 * _peak(numbers)


def _peak(numbers: dict) -> float:
    return next(values for values in numbers.values() if "KV cache" in values)["peak in the update"]


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["engine=hf", "data.concurrency=64"], "lower engine.max_batch, or take engine=vllm"),
        (["gpu=rtx_4090", "team.agents.solver.max_tokens=24576"], "shorten the longest row"),
        pytest.param(
            *(["gpu=rtx_4090", "module.micro_batch_tokens=131072"], "lower module.micro_batch_tokens"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(["engine.gpu_memory_utilization=0.95"], "lower engine.gpu_memory_utilization"), marks=pytest.mark.slow
        ),
    ],
)
def test_what_does_not_fit_has_a_remedy_that_helps(papers_run: list[str], words: list[str], remedy: str):
    _, problem = estimate([*papers_run, *words])
    assert problem is not None
    assert remedy in problem


@pytest.mark.slow
def test_the_papers_run_does_not_fit_on_24_gb(papers_run: list[str]):
    _, fits = plan([*papers_run, "gpu=rtx_4090", "module.micro_batch_tokens=65536"])
    assert not fits


def test_judge_dollars_by_hand(tmp_path: Path):
    price = ["judge=openai", "judge.money.price_in=1.0", "judge.money.price_out=10.0", "trainer.max_epochs=2"]
    numbers, _ = plan(
        ["+experiment=quickstart", *price, "judge.money.expected_tokens_in=1000", "judge.money.expected_tokens_out=100"]
    )
    assert numbers["the run"]["judge dollars, at most"] == pytest.approx(48 * 4 * 2 * (1000 * 1.0 + 100 * 10.0) / 1e6)
    assert plan(["+experiment=quickstart"])[0]["the run"]["judge dollars, at most"] == 0.0  # a rubric is no API


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+experiment=quickstart", "gpu=abacus"], "gpu=abacus is unknown; available: a100"),
        (["+experiment=quickstart", "problems=many"], "problems=many must be a whole number"),
        (["+experiment=quickstart", "fill=2"], "fill=2 must be a number above 0 and at most 1"),
        (["+experiment=quickstarts"], "Could not find 'experiment/quickstarts'"),
        (["+experiment=quickstart", "model.path=./nowhere"], "is not a model folder"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises((ConfigError, HydraException), match=message):
        plan(words)
