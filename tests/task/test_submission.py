"""Grading of submissions by hand-computed numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from mappa.errors import TaskError
from mappa.task.metrics import asked_metric
from mappa.task.submission import SubmissionError, fair, measure, read_submission

DATA = Path(os.environ.get("MAPPA_DATA", ""))
ANSWERS = pd.DataFrame({"id": [7, 8, 9, 10], "y": [0, 1, 1, 0]})


def test_rows_are_aligned_by_id_not_by_order():
    frame = read_submission(b"id, y\n10,0\n9,1\n8.0,1\n7,0\n", ANSWERS, "id")
    assert list(frame["y"]) == ["0", "1", "1", "0"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a CSV file"),
        ("id,z\n7,0\n", "has no column 'y'"),
        ("y\n1\n", "has no column 'id'"),
        ("id,y\n7,0\n8,1\n9,1\n", "misses 1 of 4 ids and has 0 unknown"),
        ("id,y\n0,0\n1,1\n2,1\n3,0\n", "misses 4 of 4 ids and has 4 unknown"),
        ("id,y\n7,0\n7,0\n8,1\n9,1\n10,1\n", "repeats 1 ids"),
        ("y,id\n7,0\n8,1\n9,1\n10,1\n", "repeats 2 ids"),
    ],
)
def test_a_wrong_file_is_a_failed_submission_with_the_reason(text, reason):
    with pytest.raises(SubmissionError, match=reason):
        read_submission(text.encode(), ANSWERS, "id")


HOSTILE = {
    "a quoted newline in the header": b'"\n' + b"," * 200_000 + b'",y\n7,0\n',
    "a header of many columns after a quoted newline": b'"a\nb"' + b",c" * 100_000 + b"\n" + b"1," * 100_000 + b"1\n",
    "an open quote": b'id,y\n"' + b"7,0\n" * 200_000,
    "endless rows": b"id,y\n" + b"7,0\n" * 2_000_000,
    "many columns in a row": b"id,y\n" + b"7" + b",0" * 2_000_000,
    "no text": b"id,y\n7,\xff\n",
    "a column twice": b"id,y,y\n7,0,1\n",
    "numbers without end": b"id,y\n" + b"9" * 100_000 + b"," + b"9" * 100_000 + b"\n8,1e999999999\n9,1\n10,1\n",
    "a long name over two lines": b'"' + b"id\n" * 30_000 + b'",y\n7,0\n',
    "20 MB of it": b'"\n' + b"," * 20_000_000 + b'",y\n7,0\n',
}


READER = """
import os, resource, sys
import pandas as pd
from mappa.task.submission import SubmissionError, read_submission

answers = pd.DataFrame({"id": [7, 8, 9, 10], "y": [0, 1, 1, 0]})
for name in sys.argv[1:]:
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        with open(name, "rb") as file, open(name + ".said", "w") as said:
            try:
                read_submission(file.read(), answers, "id")
            except SubmissionError as error:
                print(error, file=said)
        os._exit(0)
    os.wait()
"""
"""Reads files one after another, each in a fork with limits of its own; leaves what a refusal says beside the file."""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each hostile file is told."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {name: folder / str(index) for index, name in enumerate(HOSTILE)}
    for name, path in files.items():
        path.write_bytes(HOSTILE[name])
    subprocess.run([sys.executable, "-c", READER, *map(str, files.values())], check=True)
    return {name: Path(f"{path}.said").read_text() for name, path in files.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(refusals: dict[str, str], name: str):
    """Attacks with limits of their own: a process of 4 GiB and 20 s of processor time."""
    assert refusals[name].startswith("submission.csv ")
    assert len(refusals[name]) < 1000
    assert refusals[name].count("\n") == 1


def test_a_label_for_every_row_costs_nothing():
    """A table of all labels against all would not fit into memory."""
    rows = 40_000
    truth = [str(row % 3) for row in range(rows)]
    for metric in ("kappa", "qwk", "f1_macro", "f1_samples", "accuracy"):
        found = classification([f"label{row}" for row in range(rows)], truth, truth, metric)
        assert found["skill"] == 0.0


def test_long_ids_are_told_apart():
    answers = pd.DataFrame({"id": [9007199254740993, 9007199254740992], "y": [1, 0]})
    found = read_submission(b"id,y\n9007199254740992,0\n9007199254740993,1\n", answers, "id")
    assert list(found["y"]) == ["1", "0"]


def classification(
    predicted: list, truth=(0, 1, 1, 0), train=(0, 0, 0, 1), metric: str | None = None
) -> dict[str, float]:
    frames = (pd.DataFrame({"y": list(values)}) for values in (truth, map(str, predicted), train))
    return measure(*frames, "classification", metric)


def test_labels():
    found = classification([0, 1, 0, 0])
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert found["floor"] == 0.5  # always 0, as most of the training rows are
    assert found["skill"] == pytest.approx(0.5)
    assert "auc" not in found


def test_probabilities():
    found = classification([0.1, 0.9, 0.4, 0.2])
    assert found["auc"] == 1.0
    assert found["accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx(-(math.log(0.9) * 2 + math.log(0.4) + math.log(0.8)) / 4)
    with pytest.raises(SubmissionError, match="outside 0 to 1"):
        classification([0.1, 3.5, 0.4, 0.2])


@pytest.mark.parametrize(
    ("text", "kind", "metric"),
    [
        ("evaluated on area under the ROC curve between ...", "classification", "auc"),
        ("Submissions are scored using the log loss", "classification", "log_loss"),
        ("the F1 score", "classification", "f1"),
        ("scored on Root Mean Squared Logarithmic Error", "regression", "rmsle"),
        ("scored on the root mean squared error", "regression", "rmse"),
        ("Mean Absolute Error (MAE)", "regression", "mae"),
        ("beware of the laundry", "classification", "accuracy"),
        ("accuracy", "regression", "accuracy"),
        ("Predict y.", "regression", "rmse"),
        ("better accuracy helps all; submissions are scored on SMAPE", "regression", "smape"),
    ],
)
def test_the_task_says_what_it_is_scored_by(text: str, kind: str, metric: str):
    assert asked_metric(text, kind) == metric


def test_skill_by_the_metric_that_the_task_asks_for():
    """Ranked perfectly, yet all below 0.5: accuracy sees nothing, the area under the curve everything."""
    ranked = [0.1, 0.4, 0.3, 0.2]
    assert classification(ranked)["skill"] == 0.0
    assert classification(ranked, metric="auc")["skill"] == 1.0
    assert classification([0, 1, 0, 0], metric="auc")["auc"] == 0.75  # of labels: (1 + 1/2) / 2
    found = classification([0.25, 0.25, 0.25, 0.25], metric="log_loss")  # the share in the training rows
    assert found["floor"] == found["log_loss"]
    assert found["skill"] == 0.0
    found = classification([0, 1, 0, 0], metric="f1")
    assert found["floor"] == pytest.approx(2 / 3)  # always 1: precision 1/2, recall 1
    assert found["skill"] == 0.0
    three = classification(["a", "b", "c"], truth=("a", "b", "b"), train=("a", "b", "c"), metric="auc")
    assert three["auc"] == pytest.approx(0.875)  # a against the rest 1, b 3/4, of c there is none


REAL = {
    "auc": 24, "rmsle": 10, "rmse": 8, "accuracy": 7, "mae": 4, "smape": 4, "log_loss": 2, "qwk": 2, "medae": 1,
    "gini": 1, "mcrmse": 1, "pearson": 1, "map@3": 1, "spearman": 1, "r2": 1, "f1": 1, "f1_micro": 1,
    "f1_macro": 1, "jaccard": 1,
}  # fmt: skip
"""Counted by reading the 72 records."""


@pytest.mark.skipif(not (DATA / "dsbench_modeling_train.jsonl").is_file(), reason="MAPPA_DATA has no DSBench records")
def test_every_metric_of_dsbench_is_read_from_its_text():
    files = [DATA / f"dsbench_modeling_{name}.jsonl" for name in ("train", "eval")]
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert Counter(asked_metric(r["prompt"], r["metadata"]["data_type"]) for r in records) == REAL


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_metric_that_is_not_known_is_refused_by_its_name(kind: str):
    with pytest.raises(TaskError, match=r"the metric 'Brier score' is not known; available .*: auc, gini"):
        asked_metric("Raise the accuracy. Submissions are evaluated using the Brier score.", kind)


def test_metrics_of_labels_by_hand():
    true, said = ["1", "2", "3", "3"], ["1", "2", "2", "3"]
    assert classification(said, true, true, "f1_macro")["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert classification(said, true, true, "f1_micro")["f1_micro"] == 0.75
    assert classification(said, true, true, "kappa")["kappa"] == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    # squared distances add up to 1; by the margins (1 1 2) and (1 2 1) one would expect (6 + 2 + 2 * 6) / 4 = 5
    assert classification(said, true, true, "qwk")["qwk"] == pytest.approx(1 - 1 / 5)
    assert classification([1.2, 2.4, 1.9, 9], true, true, "qwk")["qwk"] == pytest.approx(1 - 1 / 5)
    sets = classification(["a b", "b", "c"], ["a b", "b c", "c"], ["c", "c", "a"], "f1_samples")
    assert sets["f1_samples"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    ranked = classification(["a b c", "b a c", "a b d", "c"], ["a", "a", "c", "c"], ["a", "b"], "map@3")
    assert ranked["map@3"] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert ranked["floor"] == pytest.approx((1 + 1) / 4)  # "a b" everywhere
    words = classification(["Very good", "bad day", ""], ["good", "Bad day", "so so"], ["good"], "jaccard")
    assert words["jaccard"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_metrics_of_numbers_by_hand():
    def of(metric: str, predicted: list[float], true: list[float]) -> dict[str, float]:
        frames = (pd.DataFrame({"y": values}) for values in (true, map(str, predicted), true))
        return measure(*frames, "regression", metric)

    assert of("smape", [0, 3, 5], [0, 1, 5])["smape"] == pytest.approx(100 / 3)
    assert of("mape", [1, 3], [2, 4])["mape"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert of("medae", [1, 2, 9], [1, 3, 5])["medae"] == 1.0
    assert of("r2", [1, 2, 4], [1, 2, 3])["r2"] == 0.5
    assert of("pearson", [2, 4, 6], [1, 2, 3])["pearson"] == pytest.approx(1.0)
    assert of("spearman", [1, 10, 100], [1, 2, 3])["skill"] == pytest.approx(1.0)
    assert of("pearson", [1, 1, 1], [1, 2, 3])["skill"] == 0.0
    with pytest.raises(SubmissionError, match="too large to be scored"):
        of("rmse", [1e308, -1e308], [1, 2])


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("False", "True"), ("no", "yes"), ("-1", "1"), ("0.0", "1.0")])
def test_ranking_metrics_take_any_labels_and_any_scores(no: str, yes: str):
    truth = [no, yes, yes, no]
    assert classification([-7, 30, 2, 3.5], truth, truth, "auc")["auc"] == 0.75
    assert classification([-7, 30, 2, 3.5], truth, truth, "gini")["skill"] == 0.5
    assert classification([no, yes, no, no], truth, truth, "auc")["auc"] == 0.75
    assert classification([0.1, 0.9, 0.4, 0.2], truth, truth, "accuracy")["accuracy"] == 0.75


def test_one_hot_targets_by_auc():
    hot = pd.DataFrame({"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]})
    scores = pd.DataFrame({"a": ["-2", "-3", "-1"], "b": ["0", "5", "1"], "c": ["0", "0", "9"]})
    found = measure(hot, scores, hot, "classification", "auc")
    assert found["auc"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["floor"] == 0.5


def test_labels_written_otherwise_are_equal():
    assert classification(["1.50", "2.0", "1.5e0"], ["1.5", "2", "1.5"], ["1.5", "2"])["accuracy"] == 1.0
    assert classification(["TRUE", "false"], ["True", "False"], ["True", "False"])["accuracy"] == 1.0


def test_regression_by_mae_and_rmsle():
    truth, train = pd.DataFrame({"y": [0.0, 4.0]}), pd.DataFrame({"y": [0.0, 3.0, 90.0]})
    found = measure(truth, pd.DataFrame({"y": ["1", "4"]}), train, "regression", "mae")
    assert found["floor"] == 2.0  # the median 3 is 3 and 1 off
    assert found["skill"] == 0.75
    train = pd.DataFrame({"y": [0.0, 3.0]})  # on the log scale the mean of log 1 and log 4 is log 2
    found = measure(truth, pd.DataFrame({"y": ["1", "4"]}), train, "regression", "rmsle")
    assert found["floor"] == pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(2.5) ** 2) / 2))
    assert found["skill"] == pytest.approx(1 - math.log(2) / math.sqrt(2) / found["floor"])
    with pytest.raises(SubmissionError, match="holds numbers below 0, which rmsle cannot score"):
        measure(truth, pd.DataFrame({"y": ["-1", "4"]}), train, "regression", "rmsle")


def test_text_labels_and_empty_ones():
    found = classification(["a", "b", "c", "a"], truth=("a", "b", "b", "a"), train=("a", "b", "c", "c"))
    assert found["accuracy"] == 0.75
    assert found["floor"] == 0.0
    with pytest.raises(SubmissionError, match="empty in 1 rows"):
        classification(["a", "", "b", "a"], truth=("a", "b", "b", "a"), train=("a", "b"))


def test_regression():
    truth, train = pd.DataFrame({"y": [1.0, 3.0]}), pd.DataFrame({"y": [4.0, 4.0]})
    found = measure(truth, pd.DataFrame({"y": ["1", "2"]}), train, "regression")
    assert found["rmse"] == pytest.approx(math.sqrt(0.5))
    assert found["rmse_pct"] == pytest.approx(100 * math.sqrt(0.5) / 2)
    assert found["mae"] == 0.5
    assert found["rmsle"] == pytest.approx(abs(math.log(4) - math.log(3)) / math.sqrt(2))
    assert found["floor"] == pytest.approx(math.sqrt(5))  # errors 3 and 1
    assert found["skill"] == pytest.approx(1 - math.sqrt(0.1))
    with pytest.raises(SubmissionError, match="not a number in 1 rows"):
        measure(truth, pd.DataFrame({"y": ["1", "two"]}), train, "regression")


def test_every_target_column_counts():
    truth = pd.DataFrame({"a": [1.0, 3.0], "b": [0.0, 2.0]})
    predicted = pd.DataFrame({"a": ["1", "3"], "b": ["1", "3"]})
    found = measure(truth, predicted, truth, "regression")
    assert found["rmse"] == pytest.approx(0.5)  # 0 and 1
    hot = pd.DataFrame({"a": [1, 0], "b": [0, 1], "c": [0, 0]})
    shares = pd.DataFrame({"a": ["0.6", "0.5"], "b": ["0.2", "0.3"], "c": ["0.2", "0.2"]})
    found = measure(hot, shares, hot, "classification")
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(-(math.log(0.6) + math.log(0.3)) / 2)


def test_fair_fills_of_the_paper():
    assert fair({}, ("accuracy", "f1")) == {"fair_accuracy": 0.5, "fair_f1": 0.0}
    assert fair({}, ("rmse_pct",)) == {"fair_rmse_pct": 50.0}
    assert fair({"rmse_pct": 12.0}, ("rmse_pct",)) == {"fair_rmse_pct": 12.0}
