"""Faults that only the files show: whoever spoilt them is blamed alone, whatever the later errors say."""

from __future__ import annotations

import pytest

from mappa.report.planted.tables import (
    ANALYST,
    ENGINEER,
    HONEST,
    MODELER,
    TABLE,
    TARGET,
    TEST,
    TRAIN,
    VISIBLE,
    engineer,
    modeler,
    without,
)
from tests.team.conftest import scores

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELD_BACK = {
    "y_train shuffled": engineer(TARGET, 'train[target].sample(frac=1, random_state=0).to_pickle("y_train.pkl")'),
    "the id saved as the target": engineer(TARGET, 'train["id"].to_pickle("y_train.pkl")'),
    "a string saved as X_test": engineer(TEST, 'pd.to_pickle("see test.csv", "X_test.pkl")'),
    "X_test is the training table": engineer(TEST, f'{TABLE}.to_pickle("X_test.pkl")'),
    "a column less in X_test": engineer(TEST, 'test.drop(columns=["id", "ash"]).to_pickle("X_test.pkl")'),
    "infinite values": engineer(TRAIN, f'({TABLE} / 0).to_pickle("X_train.pkl")'),
    "X_test transposed": engineer(TEST, 'test.drop(columns="id").T.to_pickle("X_test.pkl")'),
    "the whole train table as X_train": engineer(TRAIN, 'train.to_pickle("X_train.pkl")'),
    "a broken pickle": engineer(TEST, 'open("X_test.pkl", "wb").write(b"abc")'),
    "a class saved as the model": modeler("pickle.dump(model,", "pickle.dump(type(model),"),
    "predictions saved as the model": modeler("pickle.dump(model,", "pickle.dump(model.predict(X),"),
    "fitted on reordered columns": modeler(".fit(X, y)", ".fit(X[X.columns[::-1]], y)"),
    "X_test spoilt by the modeler": (
        "modeler",
        MODELER + 'pd.read_pickle("X_test.pkl").iloc[:3].to_pickle("X_test.pkl")',
    ),
    "X_test shuffled": engineer(TEST, 'test.drop(columns="id").sample(frac=1, random_state=0).to_pickle("X_test.pkl")'),
    "a forged NotFittedError": ("analyst", 'raise RuntimeError("NotFittedError: this model is not fitted yet")'),
    "a forged mismatch": ("analyst", 'raise ValueError("feature names seen at fit time, yet now missing")'),
    "half of the submission": ("analyst", ANALYST.replace("to_csv", "head(5).to_csv")),
}


async def blamed_alone(play, task, guilty: str, code: str) -> list[tuple[str, float, str]] | None:
    """None if the guilty agent's action is the lowest, alone, and the others are no worse than blocked."""
    episode = await play(task, **({seat: [script] for seat, script in HONEST.items()} | {guilty: [code]}))
    found = await scores(episode)
    mine = min(score for agent, score, _ in found if agent == guilty)
    others = [score for agent, score, _ in found if agent != guilty]
    return None if mine <= 2.5 and min(others) >= 5.0 else found


@pytest.mark.parametrize("fault", VISIBLE)
async def test_who_spoilt_the_files_is_blamed_alone(fault: str, play, tasks):
    assert await blamed_alone(play, tasks.train()[0], *VISIBLE[fault]) is None


@pytest.mark.slow
@pytest.mark.parametrize("fault", HELD_BACK)
async def test_faults_without_a_rule_of_their_own(fault: str, play, tasks):
    assert await blamed_alone(play, tasks.train()[0], *HELD_BACK[fault]) is None


async def test_looking_at_the_head_of_a_table_is_no_fault(play, tasks):
    look = ENGINEER + "print(test.head())\nprint(train.sample(3))"
    lost = ANALYST.replace('"X_test.pkl"', '"data/X_test.pkl"')
    found = await scores(await play(tasks.train()[0], engineer=[look], modeler=[MODELER], analyst=[lost]))
    assert [score for agent, score, _ in found if agent == "engineer"] == [10.0, 10.0]
    assert min(found, key=lambda f: f[1])[0] == "analyst"


async def test_other_honest_ways_have_full_marks(play, tasks):
    """Arrays, a shuffle of both, a scaler, missing values that the model can take."""
    arrays = ENGINEER.replace('.to_pickle("X', '.values.dump("X').replace("[target].to_pickle", "[target].values.dump")
    shuffled = without(ENGINEER, "target = ", "train = train.sample(frac=1, random_state=1)\ntarget = ")
    scaled = without(
        ENGINEER, TRAIN, f'X = {TABLE}\nmean, std = X.mean(), X.std()\n((X - mean) / std).to_pickle("X_train.pkl")'
    )
    scaled = without(scaled, TEST, '((test.drop(columns="id") - mean) / std).to_pickle("X_test.pkl")')
    for script in (arrays, shuffled, scaled):
        analyst = ANALYST.replace("y.name: said", "'class': said") if script is arrays else ANALYST
        episode = await play(tasks.train()[0], engineer=[script], modeler=[MODELER], analyst=[analyst])
        found = await scores(episode)
        assert [score for agent, score, _ in found if agent != "analyst"] == [10.0] * 4, found


async def test_what_is_probed_is_told_to_nobody(play, tasks):
    episode = await play(tasks.train()[0], **{seat: [script] for seat, script in HONEST.items()})
    last = [action for action in episode.actions if action.probe is not None]
    assert [action.seat for action in last] == ["engineer", "modeler", "analyst"]
    assert last[1].probe["model.pkl"]["fitted"] is True
    assert last[0].probe["X_test.pkl"]["rows"] == last[0].probe["given"]["test.csv"]
    said = "".join(message.content for action in episode.actions for message in action.messages)
    assert "ASKED" not in said
    assert "distinct" not in said
