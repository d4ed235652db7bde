"""The data-science team with scripted agents: real kernels, files, models and grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from mappa.config import make
from mappa.judge.base import Evidence
from mappa.judge.rubric.tabular import RubricTabularJudge
from mappa.policy.chat import Chat
from mappa.report.planted.tables import Stage
from mappa.task.tabular import Tabular
from mappa.tiny.imitation import make_tokenizer
from mappa.tiny.tabular import RECIPE
from mappa.types import Episode, Task
from sandbox import KernelPool, ResourceLimits
from tests.conftest import compose_config

JUDGE = RubricTabularJudge(
    {
        "engineer": ["X_train.pkl", "y_train.pkl", "X_test.pkl"],
        "modeler": ["model.pkl"],
        "analyst": ["submission.csv"],
    }
)
CHAT = Chat(make_tokenizer(iter(()), RECIPE))
"""One token a byte, so that any text survives."""


async def scores(episode: Episode) -> list[tuple[str, float, str]]:
    """Of each action: agent, score and reason."""
    found = []
    for index, action in enumerate(episode.actions):
        verdict = await JUDGE.score(Evidence(episode.task, episode.actions, index, episode))
        found.append((action.agent, verdict.score, verdict.reason))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    pool = KernelPool(ResourceLimits(execution_seconds=6.0, interrupt_seconds=1.0), warm=0, max_kernels=1)
    await pool.start()
    yield pool
    await pool.close()


@pytest.fixture
def tasks(tmp_path: Path) -> Tabular:
    return Tabular(str(tmp_path / "tables"), train_tables=["wine", "diabetes"], splits=1)


@pytest.fixture
def play(pool: KernelPool, tasks: Tabular, tmp_path: Path) -> Callable:
    """Let the shipped team play a task by a script."""
    team = make(compose_config(["task=tabular", "team=data_science"], tmp_path).team, _convert_="all")

    stage = Stage(team, tasks, pool, CHAT)

    async def run(task: Task, **scripts: Sequence[str]) -> Episode:
        return await stage.play("e", task, scripts)

    return run
