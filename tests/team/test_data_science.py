"""The data-science team with scripted agents: real kernels, files, models and grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mappa.agent import Scene
from mappa.chat import Chat
from mappa.config import ASSETS, make
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.task.tabular import Tabular
from mappa.types import Action, StopReason, Task
from sandbox import KernelPool
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


def bytes_chat() -> Chat:
    """One token a byte, so that any text survives, with the tiny model's template."""
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = (ASSETS / "tiny" / "chat_template.jinja").read_text()
    return Chat(fast, {})


CHAT = bytes_chat()


class Scripted(BaseEngine):
    """Each agent runs its blocks of code, one a turn, and then says that it is done."""

    context_length = 1_000_000

    def __init__(self, scripts: dict[str, Sequence[str]]) -> None:
        self._lines = {agent: [f"```python\n{code}\n```" for code in blocks] for agent, blocks in scripts.items()}

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        lines = self._lines[agent]
        ids = CHAT.tokenizer.encode(lines.pop(0) if lines else "Done.", add_special_tokens=False)
        return Completion((*ids, CHAT.eos_id), (0.0,) * (len(ids) + 1), StopReason.STOP, 0)


@pytest.fixture
async def pool():
    pool = KernelPool(warm=0, max_kernels=1)
    await pool.start()
    yield pool
    await pool.close()


@pytest.fixture
def tasks(tmp_path: Path) -> Tabular:
    return Tabular(str(tmp_path / "tables"), train_tables=["wine", "diabetes"], splits=1)


@pytest.fixture
def play(pool: KernelPool, tasks: Tabular, tmp_path: Path) -> Callable:
    """Let the shipped team play a task by a script: (actions, grade)."""
    team = make(compose_config(["task=tabular", "team=data_science"], tmp_path).team, _convert_="all")

    async def run(task: Task, **scripts: Sequence[str]) -> tuple[list[Action], object]:
        async def ignore(task, actions) -> None:
            pass

        async with AsyncExitStack() as stack:
            engine = Scripted({name: list(scripts.get(name, ())) for name in team.agents})
            scene = Scene("e", task, 0, engine, CHAT, pool, 1.0, 1.0, 2000, ignore, stack)
            answer = await team.play(scene)
            return scene.actions, tasks.grade(task, answer, scene.session.workspace if scene.session else None)

    return run


async def test_the_team_hands_files_on_and_submits(play, tasks):
    wine = tasks.train()[0]
    actions, grade = await play(wine, engineer=[ENGINEER], modeler=[MODELER], analyst=[ANALYST])
    assert [(a.agent, a.turn) for a in actions] == [(n, t) for n in ("engineer", "modeler", "analyst") for t in (0, 1)]
    assert [a.tool.status for a in actions if a.tool is not None] == ["ok"] * 3
    assert actions[0].files == ("X_test.pkl", "X_train.pkl", "y_train.pkl")
    assert actions[2].files == ("model.pkl",)
    assert actions[4].files == ("submission.csv",)
    told = [a.messages[1].content for a in actions if a.turn == 0]
    assert "train.csv" in told[0]
    assert "model.pkl" not in told[0].partition("Files in the workspace")[2].partition("Files you have")[0]
    assert "X_train.pkl" in told[1].partition("Files in the workspace")[2].partition("Files you have")[0]
    assert "Files you have to save: submission.csv" in told[2]
    assert grade.metrics["success"] == 1.0
    assert grade.metrics["accuracy"] > 0.8


async def test_the_hidden_answers_are_out_of_reach(play, tasks):
    """By its path, by the folder's names, and by a search of everything that the kernel can see."""
    wine = tasks.train()[0]
    answers = Path(wine.metadata["answers"])
    assert answers.is_file()  # noqa: ASYNC240
    look = f"""
import os
from pathlib import Path
found = []
for path in [{str(answers)!r}, {str(answers.parent)!r}, {str(answers.parent.parent.parent)!r}]:
    try:
        found.append(os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass
for top, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(top, f) not in ("/proc", "/sys", "/usr")]
    found += [os.path.join(top, f) for f in files if f == {answers.name!r}]
print("FOUND", found)
"""
    actions, grade = await play(wine, engineer=[look])
    assert actions[0].tool.status == "ok"
    assert actions[0].tool.text.strip() == "FOUND []"
    assert grade.reason == "there is no submission.csv"


async def test_one_live_kernel_for_all_agents(play, tasks):
    actions, _ = await play(tasks.train()[0], engineer=["kept = 41"], modeler=["print(kept + 1)"])
    assert [a.tool.text.strip() for a in actions if a.agent == "modeler" and a.tool is not None] == ["42"]
