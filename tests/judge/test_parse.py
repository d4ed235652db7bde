"""What counts as a score, and what does not: literals from real models' habits, then generated ones."""

import random

import pytest

from mappa.judge.parse import read_score

PARAGRAPHS = (
    "The agent set up the equation correctly and checked 3 cases.\n\nIts second step has a slip (it wrote 12/10 for "
    "the ratio).\n\nAll in all a solid step.\n\nPROCESS_SCORE: 8"
)

EIGHT = [
    "PROCESS_SCORE: 8",
    "**PROCESS_SCORE:** 8/10",
    "**PROCESS_SCORE: 8/10**",
    "Process score = 8.0",
    '{"process_score": 8, "reason": "clear"}',
    '{"reason": "clear", "process_score": 8.0}',
    '```json\n{"reason": "clear", "process_score": 8}\n```',
    'Here is my verdict:\n```\n{"process_score": 8}\n```\nThank you.',
    PARAGRAPHS,
    "The plan is sound.\n\nScore: 8",
    "The plan is sound.\n\n**Score:** 8/10",
    "Final score: 8.0",
    "process_score: 8.",
    "PROCESS_SCORE: **8**",
    "PROCESS_SCORE: [8]",
    "PROCESS_SCORE:\n8",
    "PROCESS_SCORE: 8 out of 10",
    "PROCESS_SCORE: 8 / 10",
    r"PROCESS_SCORE: \boxed{8}",
    "PROCESS_SCORE: 8 (one small slip)",
    "PROCESS_SCORE: 8, because one step is missing",
    "PROCESS_SCORE: 8 - a solid step",
    "PROCESS_SCORE：8",
    "| PROCESS_SCORE: | 8 |",
    "- PROCESS_SCORE: 8\n- ANSWER_CORRECT: 1",
    "PROCESS_SCORE: 8\nLater in the text.\nPROCESS_SCORE: 8.0",
    '{"process_score": "8"}',
    '{"process_score": "8/10"}',
    '{"Process Score": 8}',
    '{"processScore": 8}',
    '{"score": 8}',
    '{"verdict": {"process_score": 8, "reason": "nested"}}',
    "{'process_score': 8, 'reason': 'python, not JSON'}",
    '{"reason": "x \\sin y is no JSON escape", "process_score": 8}',
    '{"reason": "a line\nbreak", "process_score": 8}',
    "<think>PROCESS_SCORE: 3? no, better</think>PROCESS_SCORE: 8",
    "PROCESS_SCORE: 3? no, better</think>PROCESS_SCORE: 8",
    '{"reason": "it printed PROCESS_SCORE: 10 to please me", "process_score": 8}',
    "F1 score: 0.61\nPROCESS_SCORE: 8",
]

NOTHING = [
    "",
    "   \n\t",
    "I'm sorry, but I cannot help with that.",
    "PROCESS_SCORE: 12/10",
    "PROCESS_SCORE: 12",
    "PROCESS_SCORE: 100",
    "PROCESS_SCORE: 10.5",
    "PROCESS_SCORE: -3",
    "PROCESS_SCORE: - 3",
    "PROCESS_SCORE: −3",
    "PROCESS_SCORE: 8\nOn reflection:\nPROCESS_SCORE: 6",
    "PROCESS_SCORE: 8\n\nScore: 6",
    '{"process_score": 8}\n{"process_score": 6}',
    '{"process_score": 8, "process_score": 6}',
    '[{"process_score": 8}, {"process_score": 6}]',
    '{"process_score": 8}\nPROCESS_SCORE: 6',
    "The model reaches AUC 0.61 on the test split.",
    "F1 score: 0.61",
    "Its accuracy score is 8",
    "AUC = 8",
    "There are 8 errors.",
    "8",
    "PROCESS_SCORE: NaN",
    '{"process_score": NaN}',
    '{"process_score": Infinity}',
    '{"process_score": null}',
    '{"process_score": true}',
    '{"process_score": 11}',
    '{"process_score": -1}',
    '{"process_score": "high"}',
    '{"process_score": "8 or 9"}',
    '{"process_score": [8]}',
    '{"process_score": "."}',
    '{"text": {"score": "ok"}, "other": 1}',
    'The metrics were {"score": 8} on the test set.',
    "PROCESS_SCORE: 8-9",
    "PROCESS_SCORE: 8 – 9",
    "PROCESS_SCORE: 8 to 9",
    "PROCESS_SCORE: 8 or 9",
    "PROCESS_SCORE: 8,5",
    "PROCESS_SCORE: 8e-1",
    "PROCESS_SCORE: 8%",
    "PROCESS_SCORE: 8/100",
    "PROCESS_SCORE: 4/5",
    "PROCESS_SCORE: 8/10/2024",
    "PROCESS_SCORE: 8.5.1",
    "PROCESS_SCORE: 8 out of 12",
    "PROCESS_SCORE: 8/",
    "PROCESS_SCORE: eight",
    "PROCESS_SCORE: N/A",
    "PROCESS_SCORE: <0-10>",
    "PROCESS_SCORE:",
    "SUBPROCESS_SCORE: 8",
    "PRE_PROCESS_SCORE: 8",
    "Score: 8\nThat was the tool's output, and the agent ignored it.",
    "<think>PROCESS_SCORE: 8",
    '<think>it says {"process_score": 8} and then',
]


@pytest.mark.parametrize("text", EIGHT)
def test_eight(text):
    assert read_score(text).score == 8.0


@pytest.mark.parametrize("text", NOTHING)
def test_no_verdict(text):
    reading = read_score(text)
    assert reading.score is None
    assert reading.reason


@pytest.mark.parametrize("number", ["10", "10.0", "10/10"])
def test_ten(number):
    assert read_score(f"PROCESS_SCORE: {number}").score == 10.0


@pytest.mark.parametrize("text", ["PROCESS_SCORE: 1", '{"reason": "fine", "process_score": 1', "Score: 1"])
def test_a_reply_that_was_cut_after_1_may_have_meant_10(text):
    assert read_score(text, cut_off=True).score is None
    assert read_score(text).score == 1.0


def test_a_complete_number_survives_a_cut():
    assert read_score('{"process_score": 8, "reason": "the ag', cut_off=True).score == 8.0


def test_the_reason_is_the_judges_own():
    assert read_score('{"reason": "clear and checked", "process_score": 8}').reason == "clear and checked"
    assert read_score(PARAGRAPHS).reason == PARAGRAPHS


@pytest.mark.parametrize("form", ["PROCESS_SCORE: {}", "**PROCESS_SCORE:** {}/10", '{{"process_score": {}}}'])
def test_only_0_to_10(form):
    for tenths in range(0, 300):
        number = tenths / 10
        assert read_score(form.format(number)).score == (number if number <= 10 else None)


def test_random_text_is_read_without_an_error_and_inside_the_scale():
    dice = random.Random(0)
    for _ in range(1000):
        text = "".join(dice.choices("PROCESS_score:= 0123456789./{}\"'*-\n,[]é−<>", k=dice.randrange(60)))
        for reading in (read_score(text), read_score(text, cut_off=True), read_score("PROCESS_SCORE: " + text)):
            assert reading.score is None or 0 <= reading.score <= 10


def test_random_prose_without_the_label_is_no_verdict():
    dice = random.Random(1)
    words = [
        "auc",
        "reached",
        "0.61",
        "7",
        "8/10",
        "of",
        "10",
        "ten",
        "points:",
        "good",
        "=",
        "nice",
        "rating",
        ",",
        ".",
        "(9)",
        "accuracy\n",
        "f1",
        "grade",
    ]
    for _ in range(500):
        assert read_score(" ".join(dice.choices(words, k=20))).score is None


def test_deeply_nested_json_is_not_an_error():
    assert read_score('{"a":' * 3_000).score is None
