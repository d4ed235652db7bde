from __future__ import annotations

import pytest

from mappa.errors import ConfigError
from mappa.text import check_placeholders, code_blocks, fill, in_reasoning, last_boxed, strip_reasoning
from sandbox.kernel.text import head_tail


def test_fill_is_one_pass_and_leaves_braces_alone():
    assert fill(r"{{a}} \boxed{} {b}", {"a": "{{b}}", "b": "no"}) == r"{{b}} \boxed{} {b}"


def test_an_unknown_placeholder_names_what_there_is():
    with pytest.raises(ConfigError, match=r"unknown placeholder {{slover}}; available: solver, task"):
        check_placeholders("{{slover}}", {"solver", "task"}, "agent")


@pytest.mark.parametrize(
    "text", ["<think>a</think>answer", "a b </think>\n\nanswer", "answer", "<think>x</think> y </think> answer"]
)
def test_reasoning_is_stripped_with_only_the_closing_tag(text: str):
    assert strip_reasoning(text) == "answer"


@pytest.mark.parametrize(
    ("text", "left"),
    [("<think>so 3", ""), ("first <think> then", "first"), ("<think>a</think> b <think>c", "b"), ("a < b", "a < b")],
)
def test_reasoning_that_never_closed_is_stripped_too(text: str, left: str):
    assert strip_reasoning(text) == left
    assert in_reasoning(text) == ("<think>" in text)


def test_code_blocks_run_in_order_as_one_cell():
    text = "a\n```python\nx = 1\n```\nb\n```py\nprint(x)\n```\n```text\nno\n```"
    assert code_blocks(text) == "x = 1\nprint(x)"


def test_head_tail_keeps_both_ends():
    cut = head_tail("a" * 100 + "Traceback end", 40)
    assert cut.startswith("a" * 20)
    assert cut.endswith("Traceback end")
    assert "characters omitted" in cut
    assert head_tail("abcdef", 1) == "\n... [6 characters omitted] ...\n", "no room is not all the room there is"


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} then \boxed{42}", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed{open", "1"),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None):
    assert last_boxed(text) == boxed
