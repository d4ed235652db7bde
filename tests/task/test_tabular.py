"""Tasks in DSBench's layout: made from scikit-learn's tables, and read from files of the user."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from mappa.errors import ConfigError, TaskError
from mappa.task.tables import TABLES
from mappa.task.tabular import Tabular

DATA = Path(os.environ.get("MAPPA_DATA", ""))


class Folder:
    """A workspace that holds one file."""

    def __init__(self, data: bytes | None) -> None:
        self._data = data

    def read(self, name: str, max_bytes: int = 0) -> bytes:
        if self._data is None or name != "submission.csv":
            raise FileNotFoundError(name)
        return self._data


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_of_scikit_learn(name: str, tmp_path: Path):
    tasks = Tabular(str(tmp_path), train_tables=[name], splits=2)
    one, two = tasks.train()
    assert one.kind == TABLES[name].kind
    train, test = pd.read_csv(one.files["train.csv"]), pd.read_csv(one.files["test.csv"])
    answers = pd.read_csv(one.metadata["answers"])
    (target,) = one.metadata["targets"]
    assert target not in test
    assert f"`{target}`" in one.question
    assert list(answers["id"]) == list(test["id"])
    assert not set(train["id"]) & set(test["id"])
    assert set(test["id"]) != set(pd.read_csv(two.files["test.csv"])["id"]), "splits differ"
    assert not any("answers" in path for path in one.files.values())

    perfect = tasks.grade(one, None, Folder(answers.to_csv(index=False).encode()))
    assert perfect.score == 1.0
    assert perfect.metrics["success"] == 1.0
    value = train[target].mode()[0] if one.kind == "classification" else train[target].mean()
    constant = tasks.grade(one, None, Folder(answers.assign(**{target: value}).to_csv(index=False).encode()))
    assert constant.score == pytest.approx(0.0, abs=1e-9)
    assert constant.metrics["success"] == 1.0


def test_making_the_tables_again_changes_nothing(tmp_path: Path):
    def files() -> dict[str, bytes]:
        Tabular(str(tmp_path), train_tables=["wine"], splits=1).train()
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*.csv")}

    assert files() == files() != {}


def test_a_failed_submission_is_a_zero_with_its_reason_and_the_fair_fills(tmp_path: Path):
    tasks = Tabular(str(tmp_path), train_tables=["wine", "diabetes"], splits=1)
    wine, diabetes = tasks.train()
    missing = tasks.grade(wine, "done", Folder(None))
    assert (missing.score, missing.reason) == (0.0, "there is no submission.csv")
    assert missing.metrics == {"success": 0.0, "fair_accuracy": 0.5, "fair_f1": 0.0}
    assert tasks.grade(diabetes, "done", None).metrics == {"success": 0.0, "fair_rmse_pct": 50.0}


def record(folder: Path, **changes: object) -> Path:
    """A user's own task in DSBench's layout; returns its JSONL."""
    for name, text in {
        "train.csv": "id,x,y\n1,2,0\n2,3,1\n",
        "test.csv": "id,x\n3,4\n",
        "a/test_answer.csv": "id,y\n3,1\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    meta = {"task_id": "mine", "data_type": "classification", "train_file": "train.csv", "test_file": "test.csv"}
    (folder / "records.jsonl").write_text(
        json.dumps({"prompt": "Predict y.", "metadata": meta | {"answer_dir": "a"} | changes})
    )
    return folder / "records.jsonl"


def test_records_of_the_user(tmp_path: Path):
    tasks = Tabular(str(tmp_path / "t"), validation={"mine": str(record(tmp_path))}, data_dir=str(tmp_path))
    (task,) = tasks.validation()["mine"]
    assert (task.id, task.kind, task.metadata["id"], task.metadata["targets"]) == (
        "mine",
        "classification",
        "id",
        ["y"],
    )
    assert tasks.grade(task, None, Folder(b"id,y\n3,1\n")).metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": "nowhere.csv"}, r"line 1 \(mine\): .*nowhere.csv is missing; task.data_dir"),
        ({"answer_dir": "b"}, "b/test_answer.csv is missing"),
        ({"data_type": "ranking"}, "data_type=ranking must be one of"),
        ({"metric": "brier"}, r"line 1 \(mine\): the metric 'brier' is not known; available"),
        ({"test_file": "train.csv"}, "a target that it has not"),
    ],
)
def test_mistakes_in_records_are_named(changes, message, tmp_path: Path):
    tasks = Tabular(str(tmp_path / "t"), train=str(record(tmp_path, **changes)), data_dir=str(tmp_path))
    with pytest.raises(TaskError, match=message):
        tasks.train()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("id,y\n", r"line 1: .*test_answer.csv holds a header and no rows"),
        ("id,y\n3,\n", r"line 1 \(mine\): .*test_answer.csv, line 2: 'y' holds '', no answer"),
        ("id,z\n3,1\n", "has no column 'z', which the answers have"),
    ],
)
def test_answers_that_cannot_be_graded_by_are_refused_by_their_line(answers: str, message: str, tmp_path: Path):
    path = record(tmp_path)
    (tmp_path / "a/test_answer.csv").write_text(answers)
    with pytest.raises(TaskError, match=message) as error:
        Tabular(str(tmp_path / "t"), train=str(path), data_dir=str(tmp_path)).train()
    assert "\n" not in str(error.value)


def test_a_feature_before_the_id_and_a_usage_column_are_no_targets(tmp_path: Path):
    path = record(tmp_path)
    (tmp_path / "a/test_answer.csv").write_text("x,id,y,Usage\n4,3,1,Public\n")
    (task,) = Tabular(str(tmp_path / "t"), train=str(path), data_dir=str(tmp_path)).train()
    assert (task.metadata["id"], task.metadata["targets"]) == ("id", ["y"])
    tasks = Tabular(str(tmp_path / "t"), train=str(path), data_dir=str(tmp_path))
    assert tasks.grade(task, None, Folder(b"id,y\n3,1\n")).metrics["accuracy"] == 1.0


def test_all_bad_records_are_named_at_once_blank_lines_and_a_bom_are_not_bad(tmp_path: Path):
    path = record(tmp_path)
    good = path.read_text()
    path.write_text(f"\ufeff{good}\n\n{{\n" + '{"metadata": {}}\n' + good.replace("classification", "ranking") + "\n")
    with pytest.raises(
        TaskError, match=r"3 of 4 records are .*line 3 is not JSON.*line 4: a record.*line 5: data_type"
    ):
        Tabular(str(tmp_path / "t"), train=str(path), data_dir=str(tmp_path)).train()


def test_mistakes_in_the_configuration_are_named(tmp_path: Path):
    with pytest.raises(TaskError, match=r"nothing.jsonl is missing; give a JSONL"):
        Tabular(str(tmp_path), train="nothing.jsonl").train()
    with pytest.raises(ConfigError, match="unknown table 'titanic'; available: breast_cancer"):
        Tabular(str(tmp_path), train_tables=["titanic"]).train()
    with pytest.raises(ConfigError, match=r"'iris' \(training\) and 'iris_petal' \(validation\) hold the same rows"):
        Tabular(str(tmp_path), train_tables=["digits", "iris"], validation_tables=["iris_petal"])
    with pytest.raises(ConfigError, match="no tasks"):
        Tabular(str(tmp_path)).train()


@pytest.mark.skipif(not (DATA / "dsbench_modeling_train.jsonl").is_file(), reason="MAPPA_DATA has no DSBench records")
def test_dsbench_without_its_tables_says_what_is_missing(tmp_path: Path):
    tasks = Tabular(str(tmp_path), train=str(DATA / "dsbench_modeling_train.jsonl"), data_dir=str(tmp_path))
    with pytest.raises(TaskError, match=r"train\.csv is missing; task\.data_dir"):
        tasks.train()
