"""For each planted fault the rubric judge scores the guilty action lowest; kernels, files and models are real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mappa.judge.base import Evidence
from mappa.judge.caps import Ladder, OutcomeCaps
from mappa.report.planted.tables import ANALYST, ENGINEER, FAULTS, MODELER, STOPPED
from mappa.types import Verdict
from tests.team.conftest import JUDGE, scores

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPEATED = ("timeout", "target leakage without names", "silent row drop", "wrong ids", "unfitted model")
"""Slow: another fault is found by the same rule in a plain run."""


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[pytest.mark.slow] if f in REPEATED else []) for f in sorted(FAULTS)]
)
async def test_the_guilty_action_scores_lowest(fault: str, play, tasks):
    guilty, code = FAULTS[fault]
    scripts = {"engineer": [ENGINEER], "modeler": [MODELER], "analyst": [ANALYST]} | {guilty: [code] if code else []}
    episode = await play(tasks.train()[0], **scripts)
    found = await scores(episode)
    assert episode.grade.metrics["success"] == 0.0, "the fault did harm"
    lowest = min(score for _, score, _ in found)
    mine = [score for agent, score, _ in found if agent == guilty]
    assert mine[-1 if fault in STOPPED else 0] == lowest <= 2.5
    assert all(score > lowest for agent, score, _ in found if agent != guilty), found


async def test_good_work_has_full_marks(play, tasks):
    episode = await play(tasks.train()[0], engineer=[ENGINEER], modeler=[MODELER], analyst=[ANALYST])
    assert [score for _, score, _ in await scores(episode)] == [10.0] * 6


async def test_before_the_end_nobody_is_blamed_for_what_is_still_to_come(play, tasks):
    episode = await play(tasks.train()[0], engineer=["print(1)", ENGINEER], modeler=[MODELER], analyst=[ANALYST])
    first = await JUDGE.score(Evidence(episode.task, episode.actions[:1], 0))
    assert (first.score, first.reason) == (4.0, "not saved yet: X_train.pkl, y_train.pkl, X_test.pkl")


async def test_a_poor_outcome_caps_the_score(play, tasks):
    caps = OutcomeCaps(["modeler"], {"classification": Ladder("accuracy", [[0.85, 9], [0.55, 4]], below=3, failed=2)})
    episode = await play(tasks.train()[0], engineer=[ENGINEER], modeler=[MODELER], analyst=[ANALYST])
    modeler = Evidence(episode.task, episode.actions, 2, episode)
    assert episode.grade.metrics["accuracy"] >= 0.85
    assert caps.apply(Verdict(10.0, "fine"), modeler).score == 9.0
    assert "capped at 9: accuracy is" in caps.apply(Verdict(10.0, "fine"), modeler).reason
    assert caps.apply(Verdict(5.0), modeler).score == 5.0
    assert caps.apply(Verdict(None), modeler).score is None
    assert caps.apply(Verdict(10.0), Evidence(episode.task, episode.actions, 0, episode)).score == 10.0
    assert caps.apply(Verdict(10.0), Evidence(episode.task, episode.actions, 2)).score == 10.0


async def test_failing_never_beats_a_poor_model(play, tasks):
    caps = OutcomeCaps(["modeler"], {"classification": Ladder("accuracy", [[0.85, 9]], below=3, failed=2)})
    episode = await play(tasks.train()[0], engineer=[ENGINEER], modeler=[MODELER])
    modeler = Evidence(episode.task, episode.actions, 2, episode)
    assert caps.apply(Verdict(10.0), modeler).score == 2.0
    assert caps.apply(Verdict(10.0), replace(modeler, episode=replace(episode, grade=None))).score == 2.0


async def test_a_file_that_was_saved_is_not_missing(play, tasks):
    """Who looks for it in the wrong place cannot put the blame on who saved it."""
    lost = ANALYST.replace('"X_test.pkl"', '"data/X_test.pkl"')
    episode = await play(tasks.train()[0], engineer=[ENGINEER], modeler=[MODELER], analyst=[lost])
    found = await scores(episode)
    assert [score for agent, score, _ in found if agent == "engineer"] == [10.0, 10.0]
    assert min(found, key=lambda f: f[1])[0] == "analyst"
