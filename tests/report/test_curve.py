from xml.etree import ElementTree

from mappa.report.curve import draw

SVG = "{http://www.w3.org/2000/svg}"


def drawn(**given):
    nothing = {"lines": {}, "accuracies": {}, "below": {}, "scatter": {}}
    return ElementTree.fromstring(draw("a run", 4, **(nothing | given)))


def test_a_value_is_drawn_against_accuracy_with_their_correlation():
    root = drawn(scatter={"kl": [(0.0, 0.5), (0.01, 0.75), (0.02, 1.0)]})
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]
    left, right, top, bottom = 50.0, 590.0, 360.0 + 40, 720.0 - 40
    assert dots == [(left, (top + bottom) / 2), ((left + right) / 2, (3 * top + bottom) / 4), (right, top)]
    assert "kl, r = 1.00" in [text.text for text in root.iter(f"{SVG}text")]


def test_without_variation_there_is_no_correlation():
    texts = [text.text for text in drawn(scatter={"kl": [(0.1, 0.5), (0.1, 0.7)]}).iter(f"{SVG}text")]
    assert "kl, r = ?" in texts


def test_a_single_point_is_no_scatter():
    assert not list(drawn(scatter={"kl": [(0.1, 0.5)]}).iter(f"{SVG}circle"))


def test_panels_are_below_each_other():
    both = {"below": {"tokens": [(0, 10.0), (1, 5.0)]}, "scatter": {"kl": [(0.1, 0.5), (0.2, 0.7)]}}
    assert [int(drawn(**given).get("height")) for given in ({}, {"below": both["below"]}, both)] == [360, 720, 1080]
