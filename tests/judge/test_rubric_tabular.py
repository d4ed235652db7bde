"""Pure parts of the data-science team's judge; whom it blames is in tests/team/test_blame.py."""

from __future__ import annotations

import pytest

from mappa.errors import ConfigError
from mappa.judge.caps import Ladder
from mappa.judge.rubric.tabular import RubricTabularJudge, drops_test_rows


@pytest.mark.parametrize(
    ("code", "dropped"),
    [
        ("test = test.dropna()", True),
        ("X_test = df_test.select_dtypes('number').head(10)", True),
        ("X_test = test[test['a'].notna() & (test['b'] > 0)]", True),
        ("X_test = test[~test['a'].isin([1])]", True),
        ("X_test = test[['a', 'b']]", False),
        ("test.loc[test['a'] < 0, 'a'] = 0", False),
        ("train = train.dropna()", False),
        ("test['a'] = test['a'].fillna(0)", False),
        ("this is no python", False),
    ],
)
def test_drops_test_rows(code: str, dropped: bool):
    assert drops_test_rows(code) is dropped


def test_files_that_nobody_has_to_save_are_refused():
    artifacts = {"engineer": ["X_train.pkl"], "modeler": ["model.pkl"], "analyst": ["submission.csv"]}
    with pytest.raises(ConfigError, match=r"'model.joblib' is no agent's artifact; known: X_train.pkl"):
        RubricTabularJudge(artifacts, model="model.joblib")


def test_ladders_for_measures_of_which_less_is_better():
    ladder = Ladder("rmse_pct", [[10, 9], [25, 8], [50, 6]], below=4, failed=2, less_is_better=True)
    assert [ladder.cap(v) for v in (5, 10, 20, 49, 51, None)] == [9, 9, 8, 6, 4, 2]
