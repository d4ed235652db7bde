"""Records from files, sampling, overlap and grading of task `math`; the real files where MAPPA_DATA names a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hydra.utils import instantiate

from mappa.config import compose
from mappa.errors import ConfigError, TaskError
from mappa.task.math import MathTask
from mappa.task.records import normalised
from mappa.types import Task

RECORDS = [{"prompt": f"What is {n} + {n}?", "answer": 2.0 * n, "id": f"p{n}"} for n in range(10)]


def shipped(name: str, *overrides: str) -> MathTask:
    return instantiate(compose(list(overrides), f"task/{name}").task)


def written(path: Path, records: object) -> str:
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


@pytest.fixture
def real_data() -> None:
    if not os.environ.get("MAPPA_DATA"):
        pytest.skip("MAPPA_DATA does not name the folder with the AIME and AMC files")


def test_json_jsonl_and_parquet_hold_the_same_tasks(tmp_path: Path) -> None:
    import pandas as pd

    as_json = written(tmp_path / "a.json", RECORDS)
    as_jsonl, as_parquet = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    as_jsonl.write_text("\n".join(json.dumps(record) for record in RECORDS) + "\n\n", encoding="utf-8")
    pd.DataFrame(RECORDS).to_parquet(as_parquet)
    first, *others = (MathTask("m", {"path": str(path)}).train() for path in (as_json, as_jsonl, as_parquet))
    assert (first[3].id, first[3].question, first[3].answer) == ("m/p3", "What is 3 + 3?", "6")
    assert all(other == first for other in others)


def test_a_local_dataset_folder_is_read_with_datasets(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = "\n".join(json.dumps({"Question": record["prompt"], "Answer": 1}) for record in RECORDS)
    (tmp_path / "set" / "test.jsonl").write_text(lines, encoding="utf-8")
    tasks = MathTask("m", validation={"held": {"path": str(tmp_path / "set"), "split": "test"}}).validation()["held"]
    assert len(tasks) == 10
    assert tasks[0].answer == "1"


def test_field_names_are_configurable_and_ids_are_made_from_the_text(tmp_path: Path) -> None:
    records = [{"q": "One?", "gold": " 1 ", "level": "easy"}, {"q": "Two?", "gold": 2, "level": "hard"}]
    source = {"path": written(tmp_path / "a.json", records), "question": "q", "answer": ["a", "gold"], "kind": "level"}
    one, two = MathTask("m", source).train()
    assert (one.answer, one.kind, two.answer, two.kind) == ("1", "easy", "2", "hard")
    assert one.id != two.id
    again = MathTask("m", {**source, "path": written(tmp_path / "b.json", records[::-1])}).train()
    assert {task.id for task in again} == {one.id, two.id}


def test_the_sample_is_a_function_of_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", RECORDS)
    drawn = {seed: [t.id for t in MathTask("m", {"path": path, "limit": 4, "seed": seed}).train()] for seed in (1, 2)}
    assert drawn[1] == [t.id for t in MathTask("m", {"path": path, "limit": 4, "seed": 1}).train()]
    assert drawn[1] != drawn[2]
    assert drawn[1] == sorted(drawn[1])
    assert len(set(drawn[1])) == 4


def test_the_same_problem_in_other_dress_has_the_same_normal_form() -> None:
    assert normalised(r"Let $x = \dfrac{1}{2}$ . Find $\left(x + 1\right)$!") == normalised(
        r"let \(x=\frac{1}{2}\); find $(x+1)$"
    )
    assert normalised("What is 1+2?") != normalised("What is 1-2?")
    assert normalised("What is 1.5?") != normalised("What is 15?")


def test_overlap_is_refused_with_examples_and_a_way_out(tmp_path: Path) -> None:
    train = written(tmp_path / "train.json", RECORDS)
    held = written(
        tmp_path / "held.json", [{"prompt": "what is $3 + 3$", "answer": 6}, {"prompt": "New?", "answer": 1}]
    )
    task = MathTask("m", {"path": train}, {"fresh": {"path": held, "id": "none"}})
    for sets in (task.train, task.validation):
        with pytest.raises(
            TaskError, match=r"1 of the 2 problems of validation set fresh .*m/p3.*drop_overlap=true"
        ) as error:
            sets()
        assert "\n" not in str(error.value)
    dropped = MathTask("m", {"path": train}, {"fresh": {"path": held}}, drop_overlap=True)
    assert [t.id for t in dropped.train()] == [f"m/p{n}" for n in range(10) if n != 3]
    assert len(dropped.validation()["fresh"]) == 2


PROBLEM = (
    "A rectangular garden measures 12 meters by 35 meters. A gardener walks along its diagonal, then twice around its "
    "border, at a speed of 3 meters per second. For how many seconds does the gardener walk in total?"
)


@pytest.mark.parametrize(
    "twin",
    [
        f"{PROBLEM} Please reason step by step, and put your final answer within \\boxed{{}}.",
        f"Problem 5. {PROBLEM}",
        f"Solve the following problem.\n\n### Problem\n{PROBLEM}\n\n### Solution (an integer from 0 to 999)",
        PROBLEM.replace("diagonal", "diagnoal"),
        PROBLEM.upper().replace(".", " ."),
    ],
)
def test_a_held_out_problem_in_another_dress_is_refused_and_can_be_dropped(twin: str, tmp_path: Path) -> None:
    train = written(tmp_path / "train.json", [*RECORDS, {"prompt": PROBLEM, "answer": 1, "id": "garden"}])
    for one, other in ((PROBLEM, twin), (twin, PROBLEM)):
        train = written(tmp_path / "train.json", [*RECORDS, {"prompt": one, "answer": 1, "id": "garden"}])
        held = written(tmp_path / "held.json", [{"prompt": other, "answer": 1, "id": "h"}])
        with pytest.raises(TaskError, match=r"1 of the 1 problems of validation set held .*m/garden") as error:
            MathTask("m", {"path": train}, {"held": {"path": held}}).train()
        assert "\n" not in str(error.value)
        dropped = MathTask("m", {"path": train}, {"held": {"path": held}}, drop_overlap=True).train()
        assert len(dropped) == len(RECORDS)


def test_problems_of_one_template_are_not_duplicates(tmp_path: Path) -> None:
    train = written(tmp_path / "train.json", [{"prompt": PROBLEM, "answer": 1}])
    other = [PROBLEM.replace("35", "36"), PROBLEM.replace("12 meters by 35", "12 meters by 53")]
    held = written(tmp_path / "held.json", [{"prompt": text, "answer": 1} for text in other])
    assert len(MathTask("m", {"path": train}, {"held": {"path": held}}).validation()["held"]) == 2


def test_all_bad_records_are_named_at_once_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = '{"prompt": "Q%d?", "answer": %d}'
    lines = [good % (1, 1), "", '{"prompt": "Q?"}', "{", '{"prompt": "Q?", "answer": NaN}', good % (2, 2), "[1]"]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    with pytest.raises(TaskError) as error:
        MathTask("m", {"path": str(path)}).train()
    message = str(error.value)
    assert message.startswith("4 of 6 records are unusable: ")
    for number in (3, 4, 5, 7):
        assert f"{path}, line {number}: " in message
    assert "\n" not in message
    path.write_text("\ufeff" + "\n".join([good % (1, 1), "", good % (2, 2)]), encoding="utf-8")
    assert [task.answer for task in MathTask("m", {"path": str(path)}).train()] == ["1", "2"]


@pytest.mark.parametrize("limit", [0, -1, "abc", 1.5, True])
def test_a_limit_is_a_whole_number_of_at_least_one(limit: object) -> None:
    with pytest.raises(ConfigError, match=rf"task\.m\.train: limit={limit} must be a whole number of at least 1"):
        MathTask("m", {"path": "a.json", "limit": limit})


def test_a_table_with_a_header(tmp_path: Path):
    """As spreadsheets write it: byte order mark, quoted line breaks, blank lines."""
    path = tmp_path / "a.csv"
    path.write_text('\ufeffproblem,answer\n"What is\n1+1?",2\n\nWhat is 5+5?,10\n', encoding="utf-8")
    tasks = MathTask("m", {"path": str(path)}).train()
    assert [(task.question, task.answer) for task in tasks] == [("What is\n1+1?", "2"), ("What is 5+5?", "10")]
    path.write_text('problem,answer\nA,\nB,1,2\n"C,3\n', encoding="utf-8")
    with pytest.raises(TaskError, match=r"^3 of 3 .*line 2: a field holds ''.*header's 2; .*not readable as csv"):
        MathTask("m", {"path": str(path)}).train()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "Q?"}]', "record 0: no answer (looked for answer"),
        ('[{"prompt": "Q?", "answer": null}]', "record 0: no answer"),
        ('[{"answer": 1}]', "record 0: no question"),
        ('[{"prompt": "Q?", "answer": ["1"]}]', "a field holds ['1']"),
        ('[{"prompt": "Q?", "answer": "  "}]', "a field holds '  '"),
        ('[{"prompt": "Q?", "answer": true}]', "a field holds True"),
        ('["Q?"]', "a record is an object"),
        ('{"prompt": "Q?"}', "a list of records is needed"),
        ("[]", "no records"),
        ("[{", "not readable as json"),
        (
            '[{"prompt": "A", "answer": 1, "id": 7}, {"prompt": "B", "answer": 1, "id": 7}]',
            "two records have the id m/7",
        ),
    ],
)
def test_an_unusable_file_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TaskError) as error:
        MathTask("m", {"path": str(path)}).train()
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_set_or_key_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"gone\.json: no such file"):
        MathTask("m", {"path": str(tmp_path / "gone.json")}).train()
    with pytest.raises(TaskError, match="m has no training set"):
        MathTask("m").train()
    with pytest.raises(TaskError, match=r"task\.data_dir, which is not set"):
        MathTask("m", {"file": "a.json"}).train()
    with pytest.raises(ConfigError, match=r"task\.m\.train: unknown key pth"):
        MathTask("m", {"pth": "a.json"})


def test_grades_say_why() -> None:
    task_set = MathTask("m", time_limit_s=0.5)
    task = Task(id="m/1", question="?", answer="42")
    assert task_set.grade(task, r"Hence \boxed{042}.", None).score == 1.0
    wrong = task_set.grade(task, r"\boxed{43}", None)
    assert (wrong.score, wrong.reason) == (0.0, "43 is not 42")
    for nothing in (None, "", "I give up\nnow"):
        assert task_set.grade(task, nothing, None).reason == "no final answer was stated"
    slow = task_set.grade(task, r"\boxed{1000000000!}", None)
    assert slow.score == 0.0
    assert "could not be compared with 42 within 0.5 s" in slow.reason


def test_own_file_through_the_shipped_config(tmp_path: Path) -> None:
    train, held = written(tmp_path / "a.json", RECORDS[:5]), written(tmp_path / "b.json", RECORDS[5:])
    task = shipped("math", f"task.train.path={train}", f"+task.validation.mine.path={held}")
    assert (len(task.train()), len(task.validation()["mine"])) == (5, 5)


@pytest.mark.usefixtures("real_data")
def test_the_shipped_sets_load_and_do_not_overlap() -> None:
    aime = shipped("aime")
    assert (len(aime.train()), {name: len(tasks) for name, tasks in aime.validation().items()}) == (
        512,
        {"aime_2025": 30, "amc": 117},
    )
    assert aime.train() == shipped("aime").train()
    assert all(aime.grade(task, rf"\boxed{{{task.answer}}}", None).score == 1.0 for task in aime.validation()["amc"])
    assert list(shipped("aime_2025").validation()) == ["aime_2025"]
    with pytest.raises(TaskError, match="no training set"):
        shipped("amc").train()


@pytest.mark.usefixtures("real_data")
def test_a_held_out_set_that_was_trained_on_is_refused() -> None:
    folder = os.environ["MAPPA_DATA"]
    task = MathTask("amc", {"path": f"{folder}/amc.json"}, {"amc_eval_32": {"path": f"{folder}/amc_eval_32.json"}})
    with pytest.raises(TaskError, match="32 of the 32 problems of validation set amc_eval_32"):
        task.validation()


GSM8K = [
    {"question": f"Add {n} and {n}.", "answer": f"{n} + {n} = <<{n}+{n}={2 * n}>>{2 * n}\n#### {sign}{2 * n:,}"}
    for n, sign in ((1, ""), (700, ""), (3, "-"))
]


def test_the_answer_after_a_mark_and_records_of_some_levels(tmp_path: Path) -> None:
    path = written(tmp_path / "gsm.json", GSM8K)
    tasks = MathTask("g", {"path": path, "after": "####"}).train()
    assert [task.answer for task in tasks] == ["2", "1,400", "-6"]
    assert MathTask("g").grade(tasks[1], "\\boxed{1400}", None).score == 1.0
    with pytest.raises(TaskError, match="the answer has no 'Answer:', after which it is looked for"):
        MathTask("g", {"path": path, "after": "Answer:"}).train()

    levels = [record | {"level": n % 3 + 1} for n, record in enumerate(RECORDS)]
    path = written(tmp_path / "levels.json", levels)
    easy = MathTask("m", {"path": path, "where": {"level": [1, 2]}, "kind": "level"}).train()
    assert {task.kind for task in easy} == {"1", "2"}
    assert len(easy) == 7
    with pytest.raises(TaskError, match=r"no records where \{'level': \[9\]\}"):
        MathTask("m", {"path": path, "where": {"level": [9]}}).train()
    with pytest.raises(TaskError, match="no field grade, which `where` asks for; it has prompt, answer, id, level"):
        MathTask("m", {"path": path, "where": {"grade": [1]}}).train()


@pytest.mark.parametrize("name", ["gsm8k", "math_l123"])
def test_shipped_debate_tasks_draw_disjoint_seeded_splits_of_the_datasets_own_fields(name: str, tmp_path: Path) -> None:
    """The presets on files with the hub's field names; the hub itself cannot be reached from a test."""
    if name == "gsm8k":
        make = lambda n: {"question": f"Add {n} and 1.", "answer": f"So.\n#### {n + 1}"}  # noqa: E731
    else:
        make = lambda n: {  # noqa: E731
            "problem": f"Add {n} and 1.",
            "answer": str(n + 1),
            "level": n % 5 + 1,
            "unique_id": f"u{n}",
        }
    train, test = (written(tmp_path / f"{k}.json", [make(n) for n in numbers]) for k, numbers in SPLITS.items())
    task = shipped(name, *task_words(name, train, test))
    drawn, held_out = task.train(), task.validation()[name]
    assert (len(drawn), len(held_out)) == (500, 500)
    assert not {t.question for t in drawn} & {t.question for t in held_out}
    assert [t.id for t in drawn] == [t.id for t in shipped(name, *task_words(name, train, test)).train()]
    if name == "math_l123":
        assert {t.kind for t in drawn} == {"1", "2", "3"}


SPLITS = {"train": range(2000), "test": range(2000, 4000)}


def task_words(name: str, train: str, test: str) -> list[str]:
    return [f"task.train.path={train}", f"task.validation.{name}.path={test}"]
