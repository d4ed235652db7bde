"""Extraction and grading of exact answers, and the hard time limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

from mappa.task import answers
from mappa.task.verifier import Verifier

TOWER = r"\boxed{9^{9^{9^9}}}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (r"first \boxed{41}, no: \boxed{42}", "42"),
        (r"\boxed{42} and then it broke off: \boxed{43", "42"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\fbox{7}", "7"),
        (r"I think \boxed{1}</think> It is \boxed{2}", "2"),
        (r"I think \boxed{1}</think> no idea,\nreally", None),
        (r"\boxed{}", None),
        ("Therefore\nthe final answer is **42**.", "42"),
        ("Answer: $42$\n", "$42$"),
        ("17", "17"),
        ("", None),
        ("I could not\nsolve it, 12 things were tried", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert answers.extract(text.replace(r"\n", "\n")) == answer


def test_endless_unclosed_boxes_are_cheap() -> None:
    began = time.monotonic()
    assert answers.extract(r"\boxed{" * 50_000) is None
    assert answers.extract(r"\boxed{{" * 50_000 + "}") is None
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("042", 42),
        ("42.0", 42),
        ("42.", 42),
        ("+42", 42),
        ("-5", -5),
        ("−5", -5),
        (r"\frac{84}{2}", 42),
        (r"\dfrac{84}{2}", 42),
        (r"\frac12", Fraction(1, 2)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        ("84/2", 42),
        ("0.5", Fraction(1, 2)),
        (r"\text{(B) } 12", 12),
        (r"\text{(B) 12}", 12),
        (r"\textbf{(B)}\ 12", 12),
        ("(B) 12", 12),
        (r"\text{42}", 42),
        (r"\mathbf{42}", 42),
        ("$42$", 42),
        (r"\(42\)", 42),
        ("{42}", 42),
        (r"\$18", 18),
        (r"18\text{ cm}^2", 18),
        (r"336^\circ", 336),
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("1 234", 1234),
        ("x = 42", 42),
        ("m+n = 40+2 = 42", 42),
        ("12,34", None),
        ("12 34", None),
        ("41, 42", None),
        ("x=3, y=42", None),
        ("x=3 and y=42", None),
        ("n >= 42", None),
        (r"41 \text{ or } 42", None),
        ("2^{10}", None),
        ("1/0", None),
        (r"50\%", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_plain_numbers_are_read_exactly(expression: str, value: Fraction | int | None) -> None:
    assert answers.number(expression) == value


def test_plain_numbers_never_start_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("the verifier was asked")

    monkeypatch.setattr(Verifier, "check", unexpected)
    assert answers.equivalent(r"\boxed{042}", "42")
    assert not answers.equivalent(r"\boxed{43}", "42.0")
    assert answers.equivalent(r"\boxed{\text{(B) } 12}", "12")
    assert answers.equivalent(r"\boxed{\textbf{(B)}}", "B")
    assert not answers.equivalent(r"\boxed{C}", "B")
    assert answers.equivalent(r"\boxed{081}", "080 or 081 (both were accepted)")
    assert not answers.equivalent(r"\boxed{82}", "080 or 081 (both were accepted)")
    assert answers.equivalent(r"\boxed{336}", r"336^\circ")
    assert answers.equivalent(r"\boxed{\sqrt 3}", r"\sqrt3")


@pytest.mark.parametrize(
    ("text", "truth", "equal"),
    [
        (r"\boxed{2^{10}}", "1024", True),
        (r"\boxed{\sqrt{144}}", "12", True),
        (r"\boxed{\text{(B) } \sqrt{144}}", "12", True),
        (r"\boxed{12 \cdot 3}", "36", True),
        (r"\boxed{\binom{10}{3}}", "121", False),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\sqrt{3/4}", True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"\boxed{80 \text{ or } 81}", "80", False),
        (r"\boxed{80, 81}", "80", False),
        (r"\boxed{n \le 42}", "42", False),
        (r"\boxed{\frac{1}{}", "1", False),
        (r"\boxed{\unknown{%s}}", "1", False),
        ("no answer\nat all", "1", False),
    ],
)
def test_equivalent(text: str, truth: str, equal: bool) -> None:
    assert answers.equivalent(text, truth, limit_s=20.0) is equal


def test_canonical_groups_votes() -> None:
    votes = ["042", r"\frac{84}{2}", "42.0", r"\text{(A) }42", r"\sqrt 3", r"\sqrt{ 3 }", r"$\sqrt 3$"]
    assert [answers.canonical(vote) for vote in votes] == ["42"] * 4 + [r"\sqrt3", r"\sqrt{3}", r"\sqrt3"]


REPEATED = [r"\boxed{1000000000!}", r"\boxed{\int_0^\infty e^{-x^{x^x}} dx}"]


@pytest.mark.parametrize("text", [TOWER, *(pytest.param(text, marks=pytest.mark.slow) for text in REPEATED)])
def test_a_pathological_answer_costs_the_limit_and_is_wrong(text: str) -> None:
    with Verifier() as verifier:
        assert verifier.check("2^2", "4", 30.0) is True
        began = time.monotonic()
        assert not verifier.check(answers.extract(text), "42", 1.0)
        assert time.monotonic() - began < 1.5
        assert verifier.check("2^2", "4", 30.0) is True, "a fresh child serves the next answer"


def test_the_child_is_reused_and_closed() -> None:
    with Verifier() as verifier:
        verifier.check("2^2", "4", 30.0)
        child = verifier._child
        verifier.check("2^3", "8", 30.0)
        assert verifier._child is child
    assert child.returncode == -signal.SIGKILL


def test_a_dead_child_is_replaced() -> None:
    with Verifier() as verifier:
        verifier.check("2^2", "4", 30.0)
        verifier._child.kill()
        verifier._child.wait()
        assert verifier.check("2^3", "8", 30.0) is True


def test_threads_take_turns() -> None:
    truths = [str(2**power) for power in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda power: answers.equivalent(rf"\boxed{{2^{{{power}}}}}", truths[power], 30.0), range(8))
        )
        wrong = pool.submit(answers.equivalent, TOWER, "42", 0.5)
        assert wrong.result(timeout=30) is False
    assert found == [True] * 8


def _grade_in_worker(queue: multiprocessing.Queue) -> None:
    queue.put((answers.equivalent(r"\boxed{2^{10}}", "1024", 30.0), answers.equivalent(TOWER, "42", 0.5)))


def test_works_in_a_daemonic_forked_process() -> None:
    answers.equivalent(r"\boxed{2^{10}}", "1024", 30.0)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_grade_in_worker, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) == (True, False)
    process.join(10)
    assert answers.equivalent(r"\boxed{2^{10}}", "1024", 30.0), "the parent's own child was not disturbed"


def test_the_child_ends_with_its_parent() -> None:
    script = (
        "import os\nfrom mappa.task.verifier import Verifier\nv = Verifier()\nv.check('2^2', '4', 30.0)\n"
        "print(v._child.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    child = int(ran.stdout)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")
