"""Demonstrations of the data-science team with the flaws that people make, played in real kernels on real tables.

The engineer forgets X_test.pkl or leaves the target among the features, the modeler fits a poor model, one of the wrong
kind or none, the analyst numbers the rows instead of copying the ids. Some flaws are noticed and mended, most are not.
What an agent sees is what a rollout would show it, output and files included; that is what the model imitates.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from string import ascii_lowercase
from tempfile import TemporaryDirectory

from omegaconf import DictConfig

from mappa.config import make
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.learn.window import task_window
from mappa.play.rollout import Job, Rollout, units
from mappa.policy.chat import Chat
from mappa.seed import stable_seed
from mappa.tiny.imitation import UNLEARNED, Example, Recipe, like_lengths, make_tokenizer, spoken
from mappa.types import Episode, StopReason, Task

RECIPE = Recipe(
    experiment="quickstart_dsbench",
    folder="tiny_tabular",
    vocabulary=1024,
    token_bytes=16,
    context=2048,
    layers=4,
    width=128,
    batch=16,
    steps=600,
    rate=2e-3,
)
EPISODES = 600
"""Played once; the model sees each several times."""
_FOR_THE_TOKENIZER = 60

MODELS = {
    "classification": (
        ("sklearn.ensemble", "RandomForestClassifier", "n_estimators=20, random_state=0"),
        ("sklearn.neighbors", "KNeighborsClassifier", "n_neighbors=5"),
    ),
    "regression": (
        ("sklearn.ensemble", "RandomForestRegressor", "n_estimators=20, random_state=0"),
        ("sklearn.linear_model", "Ridge", "alpha=0.1"),
    ),
}
POOR = {
    "classification": (
        ("sklearn.dummy", "DummyClassifier", ""),
        ("sklearn.tree", "DecisionTreeClassifier", "max_depth=1, random_state=0"),
    ),
    "regression": (
        ("sklearn.dummy", "DummyRegressor", ""),
        ("sklearn.tree", "DecisionTreeRegressor", "max_depth=1, random_state=0"),
    ),
}
ANSWER = "```python\n{}\n```"
DONE = "Done."
OK = "[sandbox] the code ran"


def texts(cfg: DictConfig, seed: int) -> Iterator[str]:
    """Conversations of some episodes, for the tokenizer."""
    chat = Chat(make_tokenizer(iter(()), RECIPE))  # no merges: a token a byte
    for episode in play(cfg, chat, _FOR_THE_TOKENIZER, seed):
        for action in episode.actions:
            yield from (f"{message.role}\n{message.content}" for message in action.messages)
            yield f"assistant\n{action.text}"


def examples(cfg: DictConfig, chat: Chat, seed: int) -> Iterator[Example]:
    """Endless: what each agent says in its turns; pass after pass in a new order, but those of like length together."""
    rng, window = random.Random(seed), 8 * RECIPE.batch
    rows = [row for episode in play(cfg, chat, EPISODES, seed) for row in conversations(episode)]
    while True:
        rng.shuffle(rows)
        for start in range(0, len(rows), window):
            yield from like_lengths(rows[start : start + window], RECIPE.batch, rng)


def conversations(episode: Episode) -> Iterator[Example]:
    """All turns of an agent as one example: its last action's context holds the earlier ones, token by token."""
    acts = [[action for action in episode.actions if action.agent == name] for name in SAYS]
    for actions in filter(None, acts):
        ids = [*actions[-1].prompt_ids, *actions[-1].completion_ids]
        labels = [UNLEARNED] * len(ids)
        for action in actions:
            said = slice(len(action.prompt_ids), len(action.prompt_ids) + len(action.completion_ids))
            labels[said] = ids[said]
        yield ids, labels


def play(cfg: DictConfig, chat: Chat, episodes: int, seed: int) -> list[Episode]:
    """Flawed colleagues play the experiment's team on its training tasks."""

    async def collect() -> list[Episode]:
        await pool.start()
        try:
            return await rollout.collect(units(jobs, None), "demonstrations", [], 1.0, 1.0)
        finally:
            await pool.close()

    with TemporaryDirectory() as folder:
        cfg.paths.run = folder
        task_set, pool = make(cfg.task, _convert_="all"), make(cfg.sandbox, _convert_="all")
        team, engine = make(cfg.team, _convert_="all"), Demonstrator(chat)
        rollout = Rollout(team, task_set, engine, chat, pool, cfg.sandbox.warm, cfg.data.tool_tokens)
        tasks = task_window(task_set.train(), 0, episodes, seed)
        seeds = [stable_seed(seed, "demonstration", index) for index in range(episodes)]
        jobs = [Job(f"{i:05d}", reworded(task, seeds[i]), seeds[i]) for i, task in enumerate(tasks)]
        return asyncio.run(collect())


def reworded(task: Task, seed: int) -> Task:
    """The same, said to be about something else: the model is to look at a task's kind, not to know four tables."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(ascii_lowercase, k=rng.randint(2, 9))) for _ in range(rng.randint(4, 9))]
    text = re.sub(r"(?<=The data describe ).*?(?=\. This is)", " ".join(words[1:]), task.question)
    return replace(task, question=text.replace(task.metadata["targets"][0], words[0]))


class Demonstrator(BaseEngine):
    """Says what a colleague would say, by what it has just been shown."""

    context_length = 1_000_000

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        shown = self._chat.tokenizer.decode(list(prompt_ids))
        asked, *replies = shown.split("<|im_start|>user\n")[1:]
        said = SAYS[agent](random.Random(sampling.seed), asked, replies[-1] if replies else None)
        ids = tuple(spoken(self._chat, said))
        return Completion(ids, (0.0,) * len(ids), StopReason.STOP, 0)


def engineer(rng: random.Random, asked: str, reply: str | None) -> str:
    """`asked`: the first message; `reply`: what the last run gave, None at first. So are the next two."""
    if reply is not None and OK in reply:
        if "X_test.pkl" in reply or rng.random() < 0.5:
            return DONE
        return ANSWER.format('test.drop(columns="id").to_pickle("X_test.pkl")')
    read = "read_cvs" if rng.random() < 0.08 else "read_csv"
    dropped = '"id"' if rng.random() < 0.2 else '["id", target]'
    lines = [
        "import pandas as pd",
        f'train, test = pd.{read}("train.csv"), pd.read_csv("test.csv")',
        "target = [c for c in train if c not in test][0]",
        f'train.drop(columns={dropped}).to_pickle("X_train.pkl")',
        'train[target].to_pickle("y_train.pkl")',
    ]
    if rng.random() < 0.7:
        lines.append('test.drop(columns="id").to_pickle("X_test.pkl")')
    return ANSWER.format("\n".join(lines))


def modeler(rng: random.Random, asked: str, reply: str | None) -> str:
    if reply is not None and (OK in reply or rng.random() < 0.3):
        return DONE
    kinds = sorted(MODELS, key=lambda kind: f"is a {kind} task" not in asked)  # the right one first
    kind = kinds[rng.random() < 0.1]
    module, name, settings = rng.choice((POOR if rng.random() < 0.3 else MODELS)[kind])
    fitted = "" if rng.random() < 0.1 else ".fit(X, y)"
    return ANSWER.format(
        "import pickle, pandas as pd\n"
        f"from {module} import {name}\n"
        'X, y = pd.read_pickle("X_train.pkl"), pd.read_pickle("y_train.pkl")\n'
        f"model = {name}({settings}){fitted}\n"
        'pickle.dump(model, open("model.pkl", "wb"))'
    )


def analyst(rng: random.Random, asked: str, reply: str | None) -> str:
    if reply is not None and (OK in reply or rng.random() < 0.6):
        return DONE
    features = 'pd.read_pickle("X_test.pkl")'
    if reply is not None and "X_test.pkl" in reply.rpartition("No such file")[2].partition("Files:")[0]:
        features = 'test.drop(columns="id")'
    ids = "range(len(test))" if rng.random() < 0.3 else 'test["id"]'
    return ANSWER.format(
        "import pickle, pandas as pd\n"
        'test, y = pd.read_csv("test.csv"), pd.read_pickle("y_train.pkl")\n'
        'model = pickle.load(open("model.pkl", "rb"))\n'
        f"said = model.predict({features})\n"
        f'pd.DataFrame({{"id": {ids}, y.name: said}}).to_csv("submission.csv", index=False)'
    )


SAYS = {"engineer": engineer, "modeler": modeler, "analyst": analyst}
