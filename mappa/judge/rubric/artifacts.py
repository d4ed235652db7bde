"""What is wrong with the files of a data-science team, by what a probe found in them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FEWEST = 0.5
"""Share of the training rows that has to be left."""
_ROWS = r"length|shape|sample|inconsistent|misses|rows|size"
_COLUMNS = r"feature|column|KeyError|shape|seen at fit|not in index|expecting"
_MODEL = r"predict|attribute|fitted|callable|load|pickl"


@dataclass(frozen=True)
class Names:
    """Of the artifacts by what they are for."""

    features: str
    target: str
    test_features: str
    model: str


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    name: str
    why: str
    breaks: str
    """Regular expression of the later errors that it explains."""
    certain: bool = True
    """It is a fault whatever comes after it; else only where the team fails in the end."""


def found_in(probe: Mapping[str, Any], names: Names) -> Iterator[Fault]:
    """Every fault that the probe shows; of files that nobody had to save yet, and that are missing, it says nothing."""
    train, test = probe.get(names.features), probe.get(names.test_features)
    sound = True
    for fault in _features(probe, names):
        sound = False
        yield fault
    if (model := probe.get(names.model)) is not None and model["kind"] != "missing":
        yield from _model(model, train, test, names, sound)


def _features(probe: Mapping[str, Any], names: Names) -> Iterator[Fault]:
    train, test, target = (probe.get(name) for name in (names.features, names.test_features, names.target))
    tables = {names.features: train, names.test_features: test}
    for name, table in tables.items():
        if table is not None and table["kind"] not in ("table", "missing"):
            yield Fault(f"{name} kind", f"{name} holds no table", rf"{_ROWS}|{_COLUMNS}|{_MODEL}|dimension|reshape")
    if target is not None and target["kind"] not in ("column", "missing"):
        yield Fault("target kind", f"{names.target} holds no single column", rf"{_ROWS}|{_COLUMNS}|1d|dimension|target")
    tables = {name: table for name, table in tables.items() if table is not None and table["kind"] == "table"}
    for name, table in tables.items():
        yield from _table(name, table)
        if name == names.test_features and table["order"] == "shuffled":
            yield Fault("test order", f"the rows of {name} are in another order than test.csv's", r"(?!)")
    rows = probe["given"].get("test.csv")
    if names.test_features in tables and test["rows"] and rows not in (None, test["rows"]):
        yield Fault("test rows", f"{names.test_features} has {test['rows']} rows of test.csv's {rows}", _ROWS)
    if names.features in tables:
        yield from _training(train, target, probe["given"].get("train.csv"), names)
    if len(tables) == 2:
        named = None not in (train["columns"], test["columns"])
        if train["width"] != test["width"]:
            why = f"{names.features} has {train['width']} columns, {names.test_features} {test['width']}"
            yield Fault("columns", why, _COLUMNS)
        elif named and train["columns"] != test["columns"]:
            yield Fault(
                "columns",
                f"{names.features} and {names.test_features} have other columns, or in another order",
                _COLUMNS,
            )


def _table(name: str, table: Mapping[str, Any]) -> Iterator[Fault]:
    if not table["rows"] or not table["width"]:
        yield Fault(f"{name} empty", f"{name} is empty", rf"{_ROWS}|{_COLUMNS}|0 |empty|minimum")
        return
    if table["leaks"]:
        yield Fault(f"{name} leak", f"the target is among the columns of {name}", _COLUMNS)
    if table["nulls"]:
        why = f"{name} has {table['nulls']} missing values"
        yield Fault(f"{name} nulls", why, r"nan|missing value|null|infinity|impute", certain=False)
    if table["infinite"]:
        yield Fault(f"{name} infinite", f"{name} has infinite values", r"inf|too large", certain=False)
    if table["text"]:
        why = f"{name} has {table['text']} columns that are no numbers"
        yield Fault(f"{name} text", why, r"could not convert|convert|numeric|string|dtype|float|object", certain=False)


def _training(
    train: Mapping[str, Any], target: Mapping[str, Any] | None, given: int | None, names: Names
) -> Iterator[Fault]:
    if train["rows"] and given is not None and train["rows"] < FEWEST * given:
        yield Fault("training rows", f"{names.features} has {train['rows']} rows of train.csv's {given}", _ROWS)
    if target is None or target["kind"] != "column":
        return
    if train["rows"] and target["rows"] != train["rows"]:
        why = f"{names.features} has {train['rows']} rows, {names.target} {target['rows']}"
        yield Fault("target rows", why, _ROWS)
    if target["nulls"]:
        yield Fault(
            "target nulls", f"{names.target} has missing values", r"nan|missing|null|unknown label", certain=False
        )
    if target["target"] == "other":
        yield Fault(
            "target", f"{names.target} is another column of train.csv than the target", r"label|class|target|type"
        )
    elif target["rows"] and target["distinct"] < 2:
        yield Fault("target", f"{names.target} holds one value", r"class|label|target")
    elif {target["target"], train["order"]} == {"same", "shuffled"}:
        yield Fault("target order", f"{names.features} and {names.target} are not in the same order", r"(?!)")


def _model(
    model: Mapping[str, Any],
    train: Mapping[str, Any] | None,
    test: Mapping[str, Any] | None,
    names: Names,
    sound: bool,
) -> Iterator[Fault]:
    """`sound`: there is nothing wrong with the features."""
    if model["kind"] != "model":
        said = f"a {model['type']}" if "type" in model else f"a {model['kind']}"
        yield Fault("model", f"{names.model} holds no model but {said}", rf"{_MODEL}|has no|not a|{model['kind']}|dict")
        return
    if model["fitted"] is False:
        yield Fault("model", f"the model in {names.model} was never fitted", _MODEL)
        return
    for table in (train, test):
        if table is not None and table["kind"] == "table" and "width" in model and model["width"] != table["width"]:
            why = f"the model was fitted on {model['width']} columns, there are {table['width']}"
            if sound:
                yield Fault("model columns", why, _COLUMNS)
            return
    columns = (model["columns"], (train or {}).get("columns"))
    if sound and None not in columns and len(set(columns)) == 2:
        yield Fault("model columns", f"the model was fitted on other columns than {names.features} has", _COLUMNS)
        return
    error = model["predicts"].get(names.test_features, "")
    if error and sound:
        yield Fault("model predicts", f"the model fails on {names.test_features}: {error}", _MODEL + "|" + _COLUMNS)
