"""The shipped tiny models, and the demonstrations they were made from."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mappa.config import ASSETS
from mappa.policy.chat import Chat
from mappa.task.arithmetic import problem
from mappa.task.relay_chain import check, make
from mappa.task.tabular import Tabular
from mappa.tiny import arithmetic, debate, imitation, relay, relay_chain, tabular
from mappa.tiny.imitation import UNLEARNED
from tests.conftest import compose_config


@pytest.mark.parametrize(
    "folder", [module.RECIPE.folder for module in (arithmetic, debate, relay, relay_chain, tabular)]
)
def test_the_shipped_models_are_small(folder: str):
    from mappa.policy.model import Model

    assert sum(p.numel() for p in Model(str(ASSETS / folder)).load().parameters()) < 2_500_000
    assert sum(path.stat().st_size for path in (ASSETS / folder).iterdir()) < 6 << 20


def spoken(chat: Chat, example: tuple[list[int], list[int]]) -> list[str]:
    """What the labels would teach, one text a turn."""
    ids, labels = example
    assert len(ids) == len(labels)
    assert all(label in (UNLEARNED, token) for token, label in zip(ids, labels, strict=True))
    learned = [token for token in labels if token != UNLEARNED]
    return chat.tokenizer.decode(learned).split("<|im_end|>")[:-1]


def test_a_demonstration_teaches_what_is_said_and_nothing_else(tmp_path: Path):
    cfg = compose_config(["+experiment=quickstart"], tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(ASSETS / "tiny"))
    first, second = (spoken(chat, example) for example in islice(arithmetic.examples(cfg, chat, 0), 2))
    assert len(first) == len(second) == 1
    assert "+" in first[0]
    assert second[0].startswith("```python\nprint(")


def test_flawed_colleagues_play_in_real_kernels(tmp_path: Path):
    cfg = compose_config(["+experiment=quickstart_dsbench", "task.splits=1", "sandbox.warm=2"], tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(ASSETS / "tiny_tabular"))
    episodes = tabular.play(cfg, chat, 4, 0)
    assert len({episode.task.id for episode in episodes}) == 4
    for episode in episodes:
        examples = list(tabular.conversations(episode))
        turns = [[a.text for a in episode.actions if a.agent == name] for name in ("engineer", "modeler", "analyst")]
        assert [spoken(chat, example) for example in examples] == turns
        assert all(action.tool is not None for action in episode.actions if action.turn == 0)


def test_every_flaw_is_demonstrated_and_some_are_mended():
    def said(speaker, asked: str = "is a regression task", reply: str | None = None) -> str:
        return "\n".join(speaker(random.Random(seed), asked, reply) for seed in range(60))

    assert 'columns="id")' in said(tabular.engineer)
    assert said(tabular.engineer).count("X_test.pkl") < 60
    assert "DummyRegressor" in (models := said(tabular.modeler))
    assert "Classifier" in models
    assert models.count(".fit(X, y)") < 60
    assert "range(len(test))" in said(tabular.analyst)
    assert 'predict(test.drop(columns="id"))' in said(tabular.analyst, reply="No such file: 'X_test.pkl'\nFiles:")
    assert "X_test.pkl" in said(tabular.engineer, reply=f"{tabular.OK}\nFiles: X_train.pkl")


def test_a_reworded_task_keeps_its_kind_only(tmp_path: Path):
    for task in Tabular(str(tmp_path), train_tables=["cancer_area", "digits"], splits=1).train():
        question = tabular.reworded(task, 7).question
        assert f"is a {task.kind} task" in question
        assert task.metadata["targets"][0] not in question
        assert "cell" not in question
        assert "digits" not in question


@pytest.mark.parametrize(("name", "module"), [("debate", debate), ("optima", relay)])
def test_whole_numbers_are_single_tokens_and_contexts_those_of_a_rollout(name: str, module, tmp_path: Path):
    cfg = compose_config([f"+experiment=quickstart_{name}"], tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(ASSETS / module.RECIPE.folder))
    first, last = module.RECIPE.whole_numbers
    assert all(len(chat.tokenizer.encode(str(number))) == 1 for number in range(first, last + 1))
    assert chat.tokenizer.tokenize("29-56=-27")[:3] == ["29", "-", "56"]
    for ids, labels in islice(module.examples(cfg, chat, 0), 200):
        assert len(ids) <= module.RECIPE.context
        assert spoken(chat, (ids, labels))


def test_careless_generators_and_critics_who_adopt_what_others_agree_on():
    """Slips are as frequent as they are said to be, in all three orders."""
    rng, task = random.Random(0), problem([3, 4, 5, 6, 2, 1])
    texts = [debate.steps(rng, task, 0.0) for _ in range(60)]
    assert {text.partition(" ")[0] for text in texts} == {
        "4*5=20;3+20=23;23+6=29;2*1=2;29-2=27",
        "4*5=20;2*1=2;3+20=23;23+6=29;29-2=27",
        "3+6=9;4*5=20;9+20=29;2*1=2;29-2=27",
    }
    assert all(text.endswith(r"\boxed{27}") for text in texts)
    right = sum(debate.steps(rng, task, debate.SLIP).endswith(r"\boxed{27}") for _ in range(4000)) / 4000
    assert abs(right - (1 - debate.SLIP) ** 5) < 0.04, "slips that cancel are rare"
    agreed = [debate.critique(rng, task, r"\boxed{1}", [r"\boxed{5}", r"\boxed{5}"]) for _ in range(1000)]
    assert abs(sum(text == r"\boxed{5}" for text in agreed) / 1000 - 0.82) < 0.05
    split = [debate.critique(rng, task, r"\boxed{1}", [r"\boxed{5}", r"\boxed{6}"]) for _ in range(1000)]
    assert abs(sum(text == r"\boxed{1}" for text in split) / 1000 - 0.60) < 0.06
    assert debate.summary(random.Random(1), [r"\boxed{5}", r"\boxed{5}"]) == "both say 5."


def test_colleagues_recite_facts_first_and_their_messages_fit_a_turn(tmp_path: Path):
    cfg = compose_config(["+experiment=quickstart_optima"], tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(ASSETS / relay.RECIPE.folder))
    for ids, labels in islice(relay.examples(cfg, chat, 0), 100):
        facts = dict(re.findall(r"(\w)=(\d+)", chat.decode(ids)))
        (said,) = spoken(chat, (ids, labels))
        assert dict(re.findall(r"(\w) is (\d+)", said)) == facts
        one, other, total = map(int, re.fullmatch(r".* (\d+)\+(\d+) #(\d+)", said).groups())
        assert one + other == total
        assert {str(one), str(other)} <= set(facts.values())
    longest = [
        max(len(imitation.spoken(chat, text.format(*range(3)))) for text in texts)
        for texts in (relay._TELL, relay._ANSWER, relay._AGREE)
    ]
    assert max(longest) <= cfg.team.agents.alice.max_tokens


def test_a_bare_value_is_often_misread_and_a_careful_colleague_makes_no_error():
    rng = random.Random(0)
    task = relay.make(rng, 49, "sum", 0)
    first, second = re.findall(r"\w", task.question)
    mine, theirs = task.metadata["facts"][first], task.metadata["facts"][second]
    heard = [relay.message(rng, task, "alice", "bare", str(theirs), careful=False) for _ in range(2000)]
    read = (1 - relay.MISREAD) * (1 - relay.WRONG_SUM) * (1 - relay.WRONG_FACT * 3 / 4)
    assert abs(heard.count(f"#{mine + theirs}") / 2000 - read) < 0.05
    careful = {relay.message(rng, task, "alice", "plain", f"{second} is {theirs}", careful=True) for _ in range(50)}
    assert careful == {f"{theirs}+{mine} #{mine + theirs}"}


def test_a_seat_of_the_chain_slips_as_often_as_said_and_in_one_part_only(tmp_path: Path):
    rng, task = random.Random(0), make(random.Random(1), 4)
    said = [relay_chain.say(rng, task, 1, "a+1 2=7", relay_chain.SLIPS) for _ in range(2000)]
    steps = [check(task.question, 1, "a+1 2=7", text) for text in said]
    assert abs(sum(not step.right for step in steps) / 2000 - relay_chain.SLIPS) < 0.03
    assert all(step.own + step.handed + step.total >= 2 for step in steps)
    cfg = compose_config(["+experiment=credit_lab"], tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(ASSETS / relay_chain.RECIPE.folder))
    seen = list(islice(relay_chain._steps(cfg, chat, rng), 100))
    assert max(len(labels) - labels.count(UNLEARNED) for _, labels in seen) <= cfg.team.seat.max_tokens
