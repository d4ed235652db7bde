"""What the page holds: rows, what is telling, sizes; see test_browser.py for how it looks."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mappa.config import ASSETS
from mappa.errors import ConfigError
from mappa.report.__main__ import report
from mappa.report.detail import detail, later_failures, token_pieces
from mappa.report.glance import glance
from mappa.report.page import MOST_EPISODES, write_page
from mappa.report.records import read_run
from mappa.report.telling import BETTER, CUT, DISAGREE, FAILED, LARGE, LATE, WORSE, chosen, telling
from tests.report.conftest import BROKE, OK, episode, tokens


def unpacked(page: str, name: str):
    found = re.search(rf'id="{name}">([^<]*)<', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(found)))


def test_rows_tell_what_their_episodes_hold(run_folder):
    said = [("solver", "1+3", 10.0, None), ("executor", "run", 4.0, BROKE), ("executor", "again", None, OK)]
    (row,) = read_run(run_folder([episode("e0", said, 1.0)])).rows
    assert (row.key, row.task, row.kind, row.grade) == ("training/0/e0", "task-e0", "sums", 1.0)
    assert row.rewards == {"solver": 1.0, "executor": 0.4}
    assert (row.unjudged, row.tool_failed, row.truncated, row.tokens) == (
        1,
        True,
        False,
        sum(len(tokens(text)) for _, text, *_ in said),
    )
    assert row.advantage == 1.0
    assert row.line()["id"] == "e0"


def test_a_file_that_was_written_anew_is_not_read_as_another_episode(run_folder):
    folder = run_folder([episode("e0", [("solver", "a", 1.0, None)], 1.0)])
    (row,) = read_run(folder).rows
    run_folder([episode("e1", [("solver", "a", 1.0, None)], 1.0)])
    with pytest.raises(ConfigError, match="try again"):
        row.line()


def test_the_most_telling_come_first_each_with_why(run_folder):
    good, bad = ("solver", "x", 10.0, None), ("solver", "x", 0.0, None)
    training = [
        episode("plain", [("solver", "x", 5.5, None)], 1.0),
        episode("apart", [("solver", "x", 9.0, None)], 0.0),
        episode("late", [good, good, good, bad], 0.0),
        episode("broken", [("solver", "x", 5.0, None)], None),
    ]
    cut = episode("cut", [("solver", "x", 5.0, None)], 1.0)
    cut["actions"][0]["stop_reason"] = "length"
    sums = [("solver", "x", None, None)]
    before = [episode("a", sums, 0.0), episode("b", sums, 1.0), episode("c", sums, 1.0)]
    after = [episode("a", sums, 1.0), episode("b", sums, 0.0), episode("c", sums, 1.0)]
    rows = read_run(run_folder([*training, cut], before, after)).rows
    why = telling(rows)
    assert next(iter(why)) == "training/0/late"
    assert set(why["training/0/late"]) == {LARGE, LATE}
    assert DISAGREE in why["training/0/apart"]
    assert FAILED in why["training/0/broken"]
    assert CUT in why["training/0/cut"]
    assert why["sums/1/a"] == [BETTER]
    assert why["sums/1/b"] == [WORSE]
    assert "sums/1/c" not in why
    assert {row.key for row in chosen(rows, 8)} >= {"sums/0/a", "sums/1/a"}, "both sides of a pair"
    assert len(chosen(rows, 3)) == 3
    assert {row.key for row in chosen(rows, 100)} == {row.key for row in rows}


def test_equal_weights_of_a_selection_are_not_telling(run_folder):
    rows = read_run(run_folder([episode(f"e{i}", [("solver", "x", 10.0, None)], 1.0) for i in range(3)])).rows
    assert telling(rows) == {}


def test_a_low_action_whose_code_ran_points_at_what_failed_after_it():
    said = [("engineer", "a", 1.0, OK), ("modeler", "b", 2.0, BROKE), ("analyst", "c", 9.0, OK)]
    assert later_failures(episode("e", said, 1.0)) == {"e/0": "e/1"}
    assert later_failures(episode("e", [("engineer", "a", 1.0, OK)], 0.0)) == {"e/0": "grade"}
    assert later_failures(episode("e", [("engineer", "a", 1.0, OK)], 1.0)) == {}
    assert later_failures(episode("e", [("engineer", "a", None, OK), ("b", "b", 1.0, BROKE)], 0.0)) == {}


def test_tokens_are_cut_where_the_model_cut_them():
    tokenizer = Tokenizer.from_file(str(ASSETS / "tiny" / "tokenizer.json"))
    text = "Compute 9 + 9*18 — für 2 € 🙂."
    ids = tokenizer.encode(text).ids
    pieces = token_pieces(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_an_action_is_shown_by_token_with_rounded_numbers():
    shown = detail(episode("e", [("solver", "1+3", 7.5, None)], 1.0), lambda ids: [f"<{i}>" for i in ids])
    (action,) = shown["actions"]
    assert action["pieces"] == [f"<{i}>" for i in tokens("1+3")]
    assert (action["advantages"], action["advantage"], set(action["logprobs"])) == ([0.5], 0.5, {-0.5})
    assert action["verdict"]["reason"] == "reason for solver"


def test_without_a_tokenizer_the_text_is_shown_whole():
    (action,) = detail(episode("e", [("solver", "said", 7.5, None)], 1.0), None)["actions"]
    assert action["text"] == "said"
    assert "pieces" not in action


def test_what_agents_said_is_nowhere_in_the_page_as_markup(run_folder):
    evil = "</script><img src=x onerror=alert(1)>"
    folder = run_folder([episode("e0", [("solver", evil, 1.0, None)], 1.0)], name="run")
    (folder / "train.log").write_text(evil)
    run = read_run(folder)
    write_page(run, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "<img" not in page
    assert unpacked(page, "chunk-0")[0]["actions"][0]["text"] == evil


def test_lone_surrogates_do_not_stop_the_page(run_folder):
    folder = run_folder([episode("e0", [("solver", "x", 1.0, None)], 1.0)])
    path = folder / "episodes" / "epoch=0000.jsonl"
    path.write_text(path.read_text().replace('"text": "x"', '"text": "\\ud83d"'))
    assert write_page(read_run(folder), folder / "report.html") == 1


@pytest.mark.slow
def test_two_thousand_long_episodes_stay_under_ten_megabytes_and_the_page_says_how_many_it_holds(run_folder):
    import random

    rng = random.Random(0)
    line = episode("e0", [("solver", "x", 1.0, None)], 1.0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=4)) for _ in range(5000)]
    lines = []
    for index in range(2100):
        count = rng.randrange(400, 1200)
        said = {"completion_ids": rng.choices(range(5000), k=count), "logprobs": [-rng.random() for _ in range(count)]}
        advantages = {"advantages": [round(rng.gauss(0, 1), 3) for _ in range(count)]}
        lines.append(line | {"id": f"e{index:04d}", "actions": [line["actions"][0] | said | advantages]})
    folder = run_folder(lines)
    path = folder / "report.html"
    shown = write_page(read_run(folder), path, pieces=lambda ids: [words[i] for i in ids])
    assert path.stat().st_size < 10_000_000
    assert 200 < shown < MOST_EPISODES
    assert f"{shown} of 2100 stored episodes" in path.read_text()


def test_what_changed_against_another_run(run_folder):
    said = [("solver", "x", None, None)]
    here = [episode(str(i), said, float(i < 6)) for i in range(8)]
    there = [episode(str(i), said, float(i < 3)) for i in range(8)]
    training = [episode("e", [("solver", "x", 1.0, None)], 1.0)]
    run = read_run(run_folder(training, here, here, "lora.rank=8", name="here"))
    other = read_run(run_folder(training, there, there, name="there"))
    changed = glance(run, other)["changed"]
    assert changed["settings"] == [{"key": "lora.rank", "there": "16", "here": "8"}]
    accuracy = changed["numbers"][0]
    assert (accuracy["there"], accuracy["here"]) == ("0.375", "0.750")
    assert accuracy["difference"].startswith("+0.375 [")


def test_a_run_without_a_finished_epoch_has_a_page(run_folder):
    folder = run_folder([])
    report([f"run={folder}"])
    assert "No training episode is stored" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which run"),
        (["run=nowhere"], "not a run folder"),
        (["run={run}", "with=nowhere"], "nowhere is not a run folder"),
        (["run={run}", "live=x"], "live=x is no port"),
        (["run={run}", "live=70000"], "live=70000 is no port"),
        (["run={run}", "lvie=1"], "unknown word 'lvie=1'"),
    ],
)
def test_wrong_words(words: list[str], message: str, run_folder):
    folder = run_folder([])
    with pytest.raises(ConfigError, match=message):
        report([word.format(run=folder) for word in words])
    assert not (Path(folder) / "report.html").exists()
