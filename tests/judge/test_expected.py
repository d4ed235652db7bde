"""Literal distributions, means worked out by hand."""

from math import log

import pytest

from mappa.judge.llm.parse import expected_score as mean_at


def token(text: str):
    return (text, {text: 0.0})


def expected_score(tokens, number: str, which: int = -1) -> float | None:
    """With the span of one occurrence of `number` in the text that the tokens make, the last by default."""
    text = "".join(t for t, _ in tokens)
    places = [i for i in range(len(text)) if number and text.startswith(number, i)]
    start = places[which] if places else 0
    return mean_at(text, tokens, (start, start + len(number)))


def test_mean_of_two_scores():
    tokens = [token("PROCESS"), token("_SCORE"), token(":"), (" 8", {" 8": log(0.75), " 6": log(0.25)})]
    assert expected_score(tokens, "8") == pytest.approx(7.5)


def test_other_words_leave_the_mean_to_the_numbers():
    tokens = [("8", {"8": log(0.6), "4": log(0.2), "N": log(0.2)})]
    assert expected_score(tokens, "8") == pytest.approx((0.6 * 8 + 0.2 * 4) / 0.8)


def test_spaced_and_bare_variants_are_one_number():
    tokens = [("8", {"8": log(0.3), " 8": log(0.3), "2": log(0.4)})]
    assert expected_score(tokens, "8") == pytest.approx(0.6 * 8 + 0.4 * 2)


def test_ten_as_one_token():
    tokens = [("10", {"10": log(0.5), "1": log(0.1), "8": log(0.4)}), token("}")]
    assert expected_score(tokens, "10") == pytest.approx(5 + 0.1 + 3.2)


def test_ten_as_two_digits_shares_the_first_digit():
    tokens = [("1", {"1": log(0.5), "8": log(0.5)}), ("0", {"0": log(0.8), "}": log(0.2)})]
    assert expected_score(tokens, "10") == pytest.approx(0.5 * 8 + 0.4 * 10 + 0.1 * 1)


def test_a_one_that_may_have_been_ten_is_resolved_by_the_next_token():
    tokens = [("1", {"1": log(0.5), "2": log(0.5)}), ("}", {"}": log(0.9), "0": log(0.1)})]
    assert expected_score(tokens, "1") == pytest.approx(0.5 * 2 + 0.45 * 1 + 0.05 * 10)


def test_a_one_that_may_have_been_ten_and_was_not_chosen_is_unreadable():
    assert expected_score([("8", {"8": log(0.6), "1": log(0.4)})], "8") is None


def test_no_whole_number_no_mean():
    assert expected_score([token("8.5")], "8.5") is None
    assert mean_at("", [], (0, 0)) is None


def test_too_little_mass_on_numbers():
    assert expected_score([("8", {"8": log(0.3), "x": log(0.7)})], "8") is None


def test_a_longer_number_is_not_mistaken_for_its_first_digit():
    assert expected_score([token("8"), token("5")], "8") is None


def test_the_score_that_was_read_and_no_other():
    tokens = [token("SCORE: "), ("8", {"8": log(0.75), "6": log(0.25)}), token("\nThe sum of "), token("5")]
    assert expected_score([*tokens[:3], ("8", {"8": log(0.5), "2": log(0.5)})], "8", 0) == pytest.approx(7.5)
    ten = [token("SCORE: "), ("10", {"10": log(0.75), "6": log(0.25)}), token("/"), ("10", {"10": 0.0})]
    assert expected_score(ten, "10", 0) == pytest.approx(9.0)


def test_tokens_that_do_not_make_the_text_say_nothing():
    assert mean_at("SCORE: 8", [("SCORE", {}), (": 7", {": 7": 0.0})], (7, 8)) is None
