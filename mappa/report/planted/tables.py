"""Engineer, modeler and analyst of `team=data_science` by a script: real kernels, files, models and grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.play.scene import Scene
from mappa.report.planted import Case
from mappa.types import Episode, StopReason, Task

if TYPE_CHECKING:
    from mappa.play.rollout import Team
    from mappa.policy.chat import Chat
    from mappa.task.base import TaskSet
    from sandbox import KernelPool

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
TRAIN = 'train.drop(columns=["id", target]).to_pickle("X_train.pkl")'
TARGET = 'train[target].to_pickle("y_train.pkl")'
TEST = 'test.drop(columns="id").to_pickle("X_test.pkl")'
TABLE = 'train.drop(columns=["id", target])'
HONEST = {"engineer": ENGINEER, "modeler": MODELER, "analyst": ANALYST}
_AGAIN = '\npd.DataFrame(pd.read_pickle("{0}").values).to_pickle("{0}")'


def without(code: str, text: str, instead: str = "") -> str:
    """`code` with one place changed.

    Raises:
        ValueError: there is no such place.
    """
    if text not in code:
        raise ValueError(f"'{text}' is not in the script")
    return code.replace(text, instead)


def engineer(text: str, instead: str) -> tuple[str, str]:
    return "engineer", without(ENGINEER, text, instead)


def modeler(text: str, instead: str) -> tuple[str, str]:
    return "modeler", without(MODELER, text, instead)


FAULTS: dict[str, tuple[str, str | None]] = {
    "missing artifact upstream": ("engineer", without(ENGINEER, 'test.drop(columns="id").to_pickle("X_test.pkl")')),
    "unfitted model": ("modeler", without(MODELER, ".fit(X, y)")),
    "wrong ids": ("analyst", without(ANALYST, '{"id": test["id"]', '{"id": range(len(test))')),
    "target leakage": ("engineer", without(ENGINEER, 'columns=["id", target]', 'columns=["id"]')),
    "kernel killed mid-turn": ("modeler", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    "no submission": ("analyst", "print(1)"),
    "silent row drop": ("engineer", without(ENGINEER, "test.drop(", "test.sample(frac=0.5).drop(")),
    "nothing was run": ("modeler", None),
    "swapped columns": (
        "analyst",
        without(ANALYST, '{"id": test["id"], y.name: said}', '{"id": said, y.name: test["id"]}'),
    ),
    "target leakage without names": (
        "engineer",
        without(ENGINEER, 'columns=["id", target]', 'columns=["id"]')
        + _AGAIN.format("X_train.pkl")
        + _AGAIN.format("X_test.pkl"),
    ),
    "silent row drop by a mask": ("engineer", without(ENGINEER, "test.drop(", "test[test['alcohol'] > 13].drop(")),
    "error of its own": ("engineer", "import pandas as pd\npd.read_csv('train.csv').nonsense()"),
    "timeout": ("modeler", "while True: pass"),
}
"""Fault -> who does what instead (None: nothing)."""
VISIBLE: dict[str, tuple[str, str | None]] = {
    "NaN in X_train": engineer(TRAIN, f'{TABLE}.mask({TABLE} > 14).to_pickle("X_train.pkl")'),
    "text in X_train": engineer(TRAIN, f'{TABLE}.assign(alcohol="strong").to_pickle("X_train.pkl")'),
    "fewer rows in X_train": engineer(TRAIN, f'{TABLE}.head(20).to_pickle("X_train.pkl")'),
    "reordered columns": engineer(TEST, 'test.drop(columns="id").iloc[:, ::-1].to_pickle("X_test.pkl")'),
    "empty X_test": engineer(TEST, 'test.drop(columns="id").iloc[:0].to_pickle("X_test.pkl")'),
    "rows dropped by a slice": engineer(TEST, 'test[5:].drop(columns="id").to_pickle("X_test.pkl")'),
    "rows dropped by iloc": engineer(TEST, 'test.iloc[::2].drop(columns="id").to_pickle("X_test.pkl")'),
    "a dict saved as the model": modeler("pickle.dump(model,", 'pickle.dump({"model": model},'),
    "5 of 13 columns fitted": modeler(".fit(X, y)", ".fit(X.iloc[:, :5], y)"),
    "5 of 13 columns fitted, no names": modeler(".fit(X, y)", ".fit(X.values[:, :5], y)"),
}
"""Faults that only the files show."""
STOPPED = ("no submission", "error of its own")
"""Faults that could still be mended: guilty is the action that stops instead. In the others it is the agent's first."""


class Scripted(BaseEngine):
    """Each agent runs its blocks of code, one a turn, and then says that it is done."""

    context_length = 1_000_000

    def __init__(self, chat: Chat, scripts: Mapping[str, Sequence[str]]) -> None:
        self._chat = chat
        self._lines = {agent: [f"```python\n{code}\n```" for code in blocks] for agent, blocks in scripts.items()}

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        lines = self._lines[agent]
        ids = self._chat.tokenizer.encode(lines.pop(0) if lines else "Done.", add_special_tokens=False)
        return Completion((*ids, self._chat.eos_id), (0.0,) * (len(ids) + 1), StopReason.STOP, 0)


@dataclass(frozen=True)
class Stage:
    """Where scripts are played."""

    team: Team
    task_set: TaskSet
    pool: KernelPool
    chat: Chat

    async def play(self, name: str, task: Task, scripts: Mapping[str, Sequence[str]]) -> Episode:
        """One episode; who has no script does nothing."""

        async def ignore(task: Task, actions: tuple) -> None:
            pass

        async with AsyncExitStack() as stack:
            engine = Scripted(self.chat, {seat: list(scripts.get(seat, ())) for seat in self.team.agents})
            scene = Scene(name, task, 0, engine, self.chat, self.pool, 1.0, 1.0, 2000, ignore, str, 0, (), stack)
            answer = await self.team.play(scene)
            grade = self.task_set.grade(task, answer, scene.session.workspace if scene.session else None)
            return Episode(name, task, 0, tuple(scene.actions), answer, grade)

    async def case(self, index: int, fault: str, task: Task, good: Episode) -> Case:
        guilty, code = (FAULTS | VISIBLE)[fault]
        scripts = {seat: [script] for seat, script in HONEST.items()} | {guilty: [code] if code else []}
        faulty = await self.play(f"faulty-{index}", task, scripts)
        mine, before = (
            [i for i, action in enumerate(episode.actions) if action.seat == guilty] for episode in (faulty, good)
        )
        return Case(fault, good, faulty, mine[-1 if fault in STOPPED else 0], before[0])


async def cases(stage: Stage, count: int) -> list[Case]:
    """All on the first task, which has to be on the table `wine`."""
    task = stage.task_set.train()[0]
    good = await stage.play("good", task, {seat: [script] for seat, script in HONEST.items()})
    both = zip_longest(FAULTS, VISIBLE)
    names = [fault for pair in both for fault in pair if fault is not None]
    return [await stage.case(i, fault, task, good) for i, fault in enumerate(names[:count])]
