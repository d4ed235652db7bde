"""What can be wrong with a team to be served or asked is one line, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mappa.ask import ask
from mappa.errors import MappaError
from mappa.export import export
from mappa.serve import serve


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["port=x"], "port=x must be a whole number from 1 to 65535"),
        (["limit=0"], "limit=0 must be a whole number from 1"),
        (["timeout=-1"], "timeout=-1 must be a whole number"),
        (["checkpoint=7"], "has no checkpoint=7"),
        (["engine=teacher"], "engine=teacher plays a run's first epoch"),
        (["engine=hff"], "engine=hff is unknown; available: hf, openai, teacher, vllm"),
        (["lora.rank=4"], "set lora.rank=16"),
        (["temprature=1"], "unknown configuration key 'temprature'"),
        (["data.temprature=1"], "unknown key 'data.temprature'"),
    ],
)
def test_a_wrong_word_is_one_line(untrained, words: list[str], message: str):
    with pytest.raises(MappaError, match=message):
        serve([f"run={untrained('quickstart')}", *words])


@pytest.mark.parametrize("questions", [[], ["  "], ["one", "two"]])
def test_one_question_is_asked(untrained, questions: list[str]):
    with pytest.raises(MappaError, match="ask one question"):
        ask([f"run={untrained('quickstart')}", *questions])


def test_an_exported_team_is_asked_and_says_what_the_run_says(untrained, tmp_path: Path, capsys):
    """Also a question that looks like markup, or like an assignment."""
    run = untrained("quickstart")
    team = export([f"run={run}", f"to={tmp_path / 'team'}"])
    capsys.readouterr()
    question = "Compute 3 + 4*5 + 2 - 6*2. [bold]x = 1[/bold]"
    answers = [ask([f"run={folder}", question, "seed=2"]) for folder in (run, team)]
    assert answers[0] == answers[1]
    said = capsys.readouterr().out
    assert said.count("solver") == 2
    assert answers[0] in said
    with pytest.raises(MappaError, match=r"unknown key 'data\.temprature'"):
        ask([f"run={team}", "data.temprature=1", question])
    with pytest.raises(MappaError, match="is an exported team"):
        ask([f"run={team}", "checkpoint=best", question])
