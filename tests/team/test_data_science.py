"""The team shares files and a kernel, and cannot reach the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mappa.report.planted.tables import ANALYST, ENGINEER, MODELER

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_team_hands_files_on_and_submits(play, tasks):
    wine = tasks.train()[0]
    episode = await play(wine, engineer=[ENGINEER], modeler=[MODELER], analyst=[ANALYST])
    actions, grade = episode.actions, episode.grade
    assert [(a.agent, a.turn) for a in actions] == [(n, t) for n in ("engineer", "modeler", "analyst") for t in (0, 1)]
    assert [a.tool.status for a in actions if a.tool is not None] == ["ok"] * 3
    assert actions[0].files == ("X_test.pkl", "X_train.pkl", "y_train.pkl")
    assert actions[2].files == ("model.pkl",)
    assert actions[4].files == ("submission.csv",)
    told = [a.messages[1].content for a in actions if a.turn == 0]
    assert "train.csv" in told[0]
    assert "model.pkl" not in told[0].partition("Files in the workspace")[2].partition("Files you have")[0]
    assert "X_train.pkl" in told[1].partition("Files in the workspace")[2].partition("Files you have")[0]
    assert "Files you have to save: submission.csv" in told[2]
    assert grade.metrics["success"] == 1.0
    assert grade.metrics["accuracy"] > 0.8


async def test_the_hidden_answers_are_out_of_reach(play, tasks):
    """By its path, by the folder's names, and by a search of everything that the kernel can see."""
    wine = tasks.train()[0]
    answers = Path(wine.metadata["answers"])
    assert answers.is_file()  # noqa: ASYNC240
    look = f"""
import os, sys

installed = ("/proc", "/sys", "/usr", sys.prefix, sys.base_prefix)
found = []
for path in [{str(answers)!r}, {str(answers.parent)!r}, {str(answers.parent.parent.parent)!r}]:
    try:
        found.append(os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass
named = set()
for root in ("/", os.getcwd()):  # at level process the folders above the workspace cannot be listed
    for top, folders, files in os.walk(root):
        folders[:] = [f for f in folders if os.path.join(top, f) not in installed]
        named |= {{os.path.join(top, f) for f in files if f in ({answers.name!r}, "sample_submission.csv")}}
print("FOUND", found + sorted(named))
"""
    episode = await play(wine, engineer=[look])
    actions, grade = episode.actions, episode.grade
    assert actions[0].tool.status == "ok"
    found = actions[0].tool.text.strip()  # the search does find what is there: a file of the task
    assert found.startswith("FOUND ['/")
    assert found.endswith("/sample_submission.csv']")
    assert found.count("'") == 2
    assert grade.reason == "there is no submission.csv"


async def test_one_live_kernel_for_all_agents(play, tasks):
    episode = await play(tasks.train()[0], engineer=["kept = 41"], modeler=["print(kept + 1)"])
    assert [a.tool.text.strip() for a in episode.actions if a.agent == "modeler" and a.tool is not None] == ["42"]
