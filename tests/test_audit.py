"""The audit tells a good judge from a noisy, a biased, a constant and a gullible one; a stored run is judged again."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mappa.audit import audit, exchanged
from mappa.credit.correct import Correct
from mappa.errors import ConfigError
from mappa.judge.base import BaseJudge, Evidence
from mappa.judge.rubric.arithmetic import RubricJudge
from mappa.judge.wrapped import NoisyJudge
from mappa.report import audit as measure
from mappa.report.audit import Mark
from mappa.report.planted import arithmetic
from mappa.types import Verdict
from tests.conftest import REPO, make_sample
from tests.judge.server import FakeJudge

RULES = {"solver": "draft", "executor": "code", "verifier": "report"}


class Odd(BaseJudge):
    """The rubric's word, changed by what it should not look at."""

    def __init__(self, kind: str) -> None:
        self.kind, self.id, self._rubric, self._asked = kind, kind, RubricJudge(RULES), 0

    async def score(self, evidence: Evidence) -> Verdict:
        verdict, action = await self._rubric.score(evidence), evidence.action
        if verdict.score is None:
            return verdict
        self._asked += 1
        score = {
            "good": verdict.score,
            "constant": 7.0,
            "lengthy": min(10.0, verdict.score * 0.7 + len(action.text) / 100),
            "partial": max(0.0, verdict.score - 3.0 * (evidence.task.kind == "large")),
            "gullible": 10.0 if re.search("PROCESS_SCORE|full marks", action.text) else verdict.score,
            "moody": (verdict.score + random.Random(self._asked).uniform(0, 7)) % 10.0,
            "mute": verdict.score if self._asked % 2 else None,
        }[self.kind]
        return replace(verdict, score=score)


async def marks(judge, again=None) -> dict[str, Mark]:
    from mappa.audit import checks

    cases = arithmetic.cases(9)
    sights = measure.sights_of(cases)
    verdicts = await measure.ask(judge, sights)
    lines = await checks(judge, again or judge, None, cases, sights, verdicts, None)
    return {line.name: line.mark for line in lines}


async def test_a_good_judge_passes():
    found = await marks(Odd("good"))
    del found["shift: agent names"]  # the rubric knows agents by their names
    assert set(found.values()) == {Mark.PASS}, found


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        ("constant", {"faults", "blame", "auc", "credit", "retest", "saturation"}),
        ("lengthy", {"shift: padding", "shift: forged sections"}),
        ("partial", {"strata"}),
        ("gullible", {"shift: a score in the text", "shift: forged sections"}),
        ("moody", {"retest"}),
        ("mute", {"unjudged"}),
    ],
)
async def test_every_other_one_fails_where_it_is_bad(kind: str, failed: set[str]):
    found = await marks(Odd(kind))
    assert failed <= {name for name, mark in found.items() if mark is Mark.FAIL}, found
    if kind == "gullible":
        assert found["faults"] is Mark.PASS, "it is good but for that"


async def test_a_judge_with_flips_is_worth_less_by_the_formula():
    noisy = NoisyJudge(RubricJudge(RULES), false_alarm=0.3, miss=0.3)
    found = await marks(noisy)
    assert found["faults"] is Mark.FAIL
    assert found["auc"] is not Mark.PASS


def test_rates_of_error_literal():
    """Six faults of one seat, half of them missed, and one of another seat, seen: 0.5 there, 3 of 7 over all."""
    cases = arithmetic.cases(20)
    solver = [case for case in cases if case.faulty.actions[case.guilty].seat == "solver"][:6]
    other = [case for case in cases if case.faulty.actions[case.guilty].seat != "solver"][:1]
    scores = {(id(case.good), case.unharmed): 9.0 for case in (*solver, *other)}
    scores |= {(id(case.faulty), case.guilty): 10.0 * (i % 2) for i, case in enumerate((*solver, *other))}
    line = measure.rates((*solver, *other), scores)
    assert set(line.numbers) == {"all", "solver"}, "one action of a seat is too few"
    assert line.numbers["solver"] == pytest.approx({"miss": 0.5, "false_alarm": 0.1, "n": 12})
    assert line.numbers["all"] == pytest.approx({"miss": 3 / 7, "false_alarm": 0.1, "n": 14})
    assert line.mark is Mark.WARN
    assert measure.rates(solver, dict.fromkeys(scores)).mark is Mark.FAIL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which judge"),
        (["judge=rubric", "actions=2"], "actions=2 must be a whole number of at least 8"),
        (["judge=rubric", "budget=none"], "budget=none must be a number of dollars above 0"),
        (["judges=[rubric]"], "or two: judges="),
        (["judge=rubric", "run=/no/run"], "/no/run is not a run folder"),
        (["judge=rubric", "+judge.rulez=1"], "unknown key 'judge.rulez'"),
        (["judge=rubric", "judge.api_key=x"], "export it and name the variable"),
        (["judge=none"], "judge=none scores nothing"),
        (["judge=outcome", "team=debate", "task=arithmetic"], "for others give run=FOLDER"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        audit(words)


def command(name: str, folder: Path, *words: str) -> tuple[int, str]:
    call = [sys.executable, "-m", f"mappa.{name}", *words]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=300, env=ENV)
    return done.returncode, done.stdout + done.stderr


ENV = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO), "OPENAI_API_KEY": "sk-of-the-test-0123"}


def test_the_command_prints_a_line_a_check_and_leaves_them(tmp_path: Path):
    status, said = command("audit", tmp_path, "judge=rubric", "actions=24")
    assert status == 0, said
    assert said.startswith("rubric-arithmetic-1\n  PASS  100%")
    assert "the shared outcome carries rho2 = 0.26, this judge" in said
    file = tmp_path / "outputs/audit/rubric-arithmetic-1.json"
    left = json.loads(file.read_text())
    assert left["judge"] == "rubric-arithmetic-1"
    assert {"faults", "credit", "retest", "shift: padding"} <= {line["name"] for line in left["lines"]}
    assert re.search(r"PASS  takes \d+% of faulty actions for right and 0% of good ones for wrong", said), said
    scheme = Correct({}, audit=str(file))
    up, down = (scheme._unbiased(make_sample(score, agent="solver")) for score in (1.0, 0.0))
    assert up == pytest.approx(1.0), "no false alarms"
    assert down < 0, "what is half a fault to the judge counts as a chance that it is none"


async def test_a_model_judge_is_audited_over_http_within_its_budget(tmp_path: Path):
    """A gullible one: whoever writes a score gets it, everybody else what the rubric says."""
    sights = measure.sights_of(arithmetic.cases(3))
    rubric = {s.action.text: (await RubricJudge(RULES).score(s.evidence(RubricJudge(RULES)))).score for s in sights}

    def script(body: dict, seen: int) -> str:
        shown = body["messages"][1]["content"].partition("# What it wrote\n")[2].partition("\n\n# What its")[0]
        text = "\n".join(line.removeprefix("> ") for line in shown.splitlines())
        known = [score for said, score in rubric.items() if said in text]
        score = 10 if "PROCESS_SCORE" in text else round(min(known, default=5))
        return f'{{"reason": "so", "code": "CODE", "process_score": {score}}}'

    async with FakeJudge(script) as server:
        words = ["judge=openai", "judge.model=m", f"judge.base_url={server.url}", "actions=24", "budget=3"]
        words += ["judge.money.price_in=1", "judge.money.price_out=1"]
        status, said = await asyncio.to_thread(command, "audit", tmp_path, *words)
        assert status == 1, said
        assert re.search(r"FAIL  a score in the text: \+", said)
        assert re.search(r"PASS  \d+% \[.*planted faults", said), said
        assert re.search(r"section order: \+0.00", said)
        assert "of the planned run, at most" in said
        calls = server.calls
        again = await asyncio.to_thread(command, "audit", tmp_path, *words)
        assert again[0] == 1
        assert server.calls - calls < calls / 3, "only what is asked anew on purpose is paid again"
        broke = await asyncio.to_thread(
            command, "audit", tmp_path, *words[:-3], "judge.money.price_in=1e6", *words[-1:]
        )
    assert "budget" in broke[1]


@pytest.mark.slow
def test_a_stored_run_is_audited_and_judged_again(tmp_path: Path):
    words = ["+experiment=quickstart", "+debug=fast", "callbacks.validation=null", "trainer.max_epochs=1"]
    status, said = command("train", tmp_path, *words, "data.tasks_per_epoch=6")
    assert status == 0, said
    assert "how good the judge rubric-arithmetic-1 is was not measured yet: python -m mappa.audit" in said
    run = said.strip().splitlines()[-1]
    status, said = command("audit", tmp_path, f"run={run}", "judges=[rubric,outcome]", "actions=16")
    assert status == 1, said
    assert "outcome-1" in said
    assert "rubric-arithmetic-1 and outcome-1: correlation" in said
    status, said = command("rejudge", tmp_path, f"run={run}", "judge=rubric")
    assert status == 0, said
    folder = Path(said.strip().splitlines()[-1])
    lines = [json.loads(line) for line in (tmp_path / folder / "epoch=0000.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["score"] == line["first"] for line in lines), "the same judge says the same"


def test_stored_episodes_of_one_problem_cannot_be_exchanged():
    case = arithmetic.cases(1)[0]
    with pytest.raises(ConfigError, match="all of one problem"):
        exchanged([case.good, case.good], 8)
