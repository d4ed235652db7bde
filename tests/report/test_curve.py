"""The picture, read back from the SVG that matplotlib wrote."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mappa.report.curve import draw

SVG = "{http://www.w3.org/2000/svg}"
NOTHING = {"lines": {}, "accuracies": {}, "below": {}, "scatter": {}}


@pytest.fixture
def drawn(tmp_path: Path):
    """`drawn(**what)`: the SVG's root."""

    def make(**given: object) -> ElementTree.Element:
        draw(tmp_path / "curve.svg", "a run", 4, **(NOTHING | given))
        return ElementTree.parse(tmp_path / "curve.svg").getroot()

    return make


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text for text in root.iter(f"{SVG}text")]


def panels(root: ElementTree.Element) -> int:
    return sum(group.get("id", "").startswith("axes_") for group in root.iter(f"{SVG}g"))


def test_a_curve_names_its_lines_and_its_title(drawn):
    accuracy = {"mean": 0.5, "low": 0.4, "high": 0.6}
    said = texts(drawn(lines={"solver reward": [(0.5, 0.1)]}, accuracies={"sums": [(0, accuracy), (4, accuracy)]}))
    assert {"a run", "solver reward", "held-out accuracy", "epoch"} <= set(said)


def test_several_validation_sets_are_told_apart(drawn):
    found = [(0, {"mean": 0.5, "low": 0.4, "high": 0.6})]
    assert {"held-out, aime", "held-out, amc"} <= set(texts(drawn(accuracies={"aime": found, "amc": found})))


def test_a_value_is_drawn_against_accuracy_with_their_correlation(drawn):
    assert "kl, r = 1.00" in texts(drawn(scatter={"kl": [(0.0, 0.5), (0.01, 0.75), (0.02, 1.0)]}))


def test_without_variation_there_is_no_correlation(drawn):
    assert "kl, r = ?" in texts(drawn(scatter={"kl": [(0.1, 0.5), (0.1, 0.7)]}))


def test_panels_stand_below_each_other_where_there_is_something_to_show(drawn):
    tokens, kl = {"tokens": [(0, 10.0), (1, 5.0)]}, {"kl": [(0.1, 0.5), (0.2, 0.7)]}
    assert [panels(drawn(**given)) for given in ({}, {"below": tokens}, {"below": tokens, "scatter": kl})] == [1, 2, 3]
    assert panels(drawn(scatter={"kl": [(0.1, 0.5)]})) == 1, "one point is no scatter"
    assert "tokens (max 10)" in texts(drawn(below=tokens))


def test_the_same_run_leaves_the_same_file(tmp_path: Path):
    lines = NOTHING | {"lines": {"solver reward": [(0.5, 0.1), (1.5, 0.3)]}}
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name, "a run", 2, **lines)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
