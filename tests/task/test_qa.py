"""Small files in each dataset's layout; literal F1, letters, and how paragraphs are dealt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate

from mappa.config import compose
from mappa.errors import ConfigError, TaskError
from mappa.task.qa import QATask, f1, normal

HOTPOT = {
    "id": "h{}",
    "question": "Who of {} wrote it?",
    "answer": "The Brontë",
    "type": "bridge",
    "supporting_facts": {"title": ["Gold A", "Gold B", "Gold A"], "sent_id": [0, 1, 2]},
    "context": {
        "title": ["Other", "Gold A", "Gold B", "More"],
        "sentences": [["o1. ", "o2."], ["a1.", "a2."], ["b1."], ["m1."]],
    },
}
WIKI = HOTPOT | {
    "supporting_facts": [["Gold A", 0], ["Gold B", 0]],
    "context": [["Gold A", ["a1."]], ["Other", ["o1."]], ["Gold B", ["b1."]]],
}
TRIVIA = {"question_id": "t{}", "question": "Capital of {}?", "answer": {"value": "New York", "aliases": ["NYC", "NY"]}}
ARC = {
    "id": "a{}",
    "question": "Which of {}?",
    "choices": {"text": ["stone", "iron", "wood"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
MMLU = {"question": "What is {}?", "choices": ["one", "two", "three", "four"], "answer": 2, "subject": "algebra"}
LAYOUTS = {"hotpotqa": HOTPOT, "2wikimultihopqa": WIKI, "triviaqa": TRIVIA, "arc": ARC, "mmlu": MMLU}


def held_out(name: str) -> str:
    """A key on the command line cannot begin with a digit."""
    return name.removeprefix("2")


def numbered(record: dict, number: int) -> dict:
    return {key: value.format(number) if isinstance(value, str) else value for key, value in record.items()}


def loaded(name: str, folder: Path, *overrides: str) -> QATask:
    files = {}
    for part, numbers in (("train", (1, 2)), ("held_out", (3,))):
        files[part] = folder / f"{part}.json"
        files[part].write_text(json.dumps([numbered(LAYOUTS[name], n) for n in numbers]))
    words = [f"task.train.path={files['train']}", f"task.validation.{held_out(name)}.path={files['held_out']}"]
    return instantiate(compose([*words, *overrides], f"task/{name}").task)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name: str, tmp_path: Path):
    task = loaded(name, tmp_path)
    assert (len(task.train()), len(task.validation()[held_out(name)])) == (2, 1)
    right = {"hotpotqa": "bronte", "2wikimultihopqa": "x", "triviaqa": "NYC", "arc": "B", "mmlu": "C"}[name]
    first = task.train()[0]
    if name in ("triviaqa", "arc", "mmlu"):
        assert task.grade(first, rf"\boxed{{{right}}}", None).score == 1.0
    assert task.grade(first, None, None).score == 0.0


@pytest.mark.parametrize("name", ["hotpotqa", "2wikimultihopqa"])
def test_paragraphs_are_dealt_so_that_no_seat_has_all_the_gold_ones(name: str, tmp_path: Path):
    task = loaded(name, tmp_path)
    for problem in (*task.train(), *task.validation()[held_out(name)]):
        views = problem.metadata["views"]
        assert set(views) == {"alice", "bob"}
        gold = [[title for title in ("Gold A", "Gold B") if title in view] for view in views.values()]
        assert sorted(map(len, gold)) == [1, 1]
        assert "o1." in "".join(views.values())
        assert "a1." not in problem.question
    again = loaded(name, tmp_path)
    assert again.train()[0].metadata == task.train()[0].metadata, "seeded"
    alone = loaded(name, tmp_path, "task.seats=[]")
    assert "Gold A: a1." in alone.train()[0].question
    assert "views" not in alone.train()[0].metadata


def test_options_are_listed_and_graded_by_letter(tmp_path: Path):
    task = loaded("arc", tmp_path)
    problem = task.train()[0]
    assert problem.question == "Which of 1?\nA) stone\nB) iron\nC) wood"
    votes = [
        task.vote(text) for text in (r"\boxed{B}", r"\boxed{(B)}", r"\boxed{B) iron}", "the answer is B.", "Because")
    ]
    assert votes == ["B", "B", "B", "B", None]
    numbers = ARC | {"answerKey": "3"}
    assert (
        QATask("n", options="choices", grading="option").task(numbers, _source(answer="answerKey"), "n", "w").answer
        == "C"
    )


def _source(**settings: str):
    from mappa.task.records import Source

    return Source(**settings)


def test_f1_over_normalised_words():
    assert normal("The  Eiffel-Tower, a Tower.") == "eiffeltower tower"
    assert f1("new york city", "new york") == pytest.approx(0.8)
    assert f1("boston", "new york") == 0.0
    task = QATask("q")
    problem = task.task({"question": "?", "answer": ["Paris, France", "paris"]}, _source(), "q", "w")
    assert task.grade(problem, "I think the answer is Paris", None).score == 1.0
    assert task.grade(problem, r"\boxed{in Paris}", None).score == pytest.approx(2 / 3)
    exact = QATask("q", grading="exact")
    assert exact.grade(problem, r"\boxed{in Paris}", None).score == 0.0
    assert exact.grade(problem, r"\boxed{The Paris!}", None).score == 1.0


@pytest.mark.parametrize(
    ("settings", "record", "message"),
    [
        ({"context": "passages"}, {}, "no context .looked for passages; the record has question, answer"),
        ({"context": "question"}, {}, "the context holds no list of paragraphs; name another field"),
        ({"options": "answer", "grading": "option"}, {}, "the options are no list of two or more texts"),
    ],
)
def test_a_field_that_is_not_there_is_named(settings: dict, record: dict, message: str):
    with pytest.raises(TaskError, match=message):
        QATask("q", **settings).task({"question": "?", "answer": "x"} | record, _source(), "q", "file, record 0")


def test_letters_need_options():
    with pytest.raises(ConfigError, match="options are graded by letter, and only they"):
        QATask("q", grading="option")
