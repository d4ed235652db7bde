"""The data-science team with scripted agents: real kernels, files, models and grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from mappa.config import make
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.play.scene import Scene
from mappa.policy.chat import Chat
from mappa.task.tabular import Tabular
from mappa.tiny.imitation import make_tokenizer
from mappa.tiny.tabular import RECIPE
from mappa.types import Episode, StopReason, Task
from sandbox import KernelPool, ResourceLimits
from tests.conftest import compose_config

ENGINEER = """
import pandas as pd
train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
target = [c for c in train if c not in test][0]
train.drop(columns=["id", target]).to_pickle("X_train.pkl")
train[target].to_pickle("y_train.pkl")
test.drop(columns="id").to_pickle("X_test.pkl")
"""
MODELER = """
import pickle, pandas as pd
from sklearn.linear_model import LogisticRegression
X, y = pd.read_pickle("X_train.pkl"), pd.read_pickle("y_train.pkl")
model = LogisticRegression(max_iter=5000).fit(X, y)
pickle.dump(model, open("model.pkl", "wb"))
"""
ANALYST = """
import pickle, pandas as pd
test, y = pd.read_csv("test.csv"), pd.read_pickle("y_train.pkl")
said = pickle.load(open("model.pkl", "rb")).predict(pd.read_pickle("X_test.pkl"))
pd.DataFrame({"id": test["id"], y.name: said}).to_csv("submission.csv", index=False)
"""


CHAT = Chat(make_tokenizer(iter(()), RECIPE))
"""One token a byte, so that any text survives."""


class Scripted(BaseEngine):
    """Each agent runs its blocks of code, one a turn, and then says that it is done."""

    context_length = 1_000_000

    def __init__(self, scripts: dict[str, Sequence[str]]) -> None:
        self._lines = {agent: [f"```python\n{code}\n```" for code in blocks] for agent, blocks in scripts.items()}

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        lines = self._lines[agent]
        ids = CHAT.tokenizer.encode(lines.pop(0) if lines else "Done.", add_special_tokens=False)
        return Completion((*ids, CHAT.eos_id), (0.0,) * (len(ids) + 1), StopReason.STOP, 0)


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

    async def run(task: Task, **scripts: Sequence[str]) -> Episode:
        async def ignore(task, actions) -> None:
            pass

        async with AsyncExitStack() as stack:
            engine = Scripted({name: list(scripts.get(name, ())) for name in team.agents})
            scene = Scene("e", task, 0, engine, CHAT, pool, 1.0, 1.0, 2000, ignore, str, 0, (), stack)
            answer = await team.play(scene)
            grade = tasks.grade(task, answer, scene.session.workspace if scene.session else None)
            return Episode("e", task, 0, tuple(scene.actions), answer, grade)

    return run
