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
        (r"hence \boxed2.", "2"),
        (r"\boxed{204", None),
        (r"The answer is \boxed{204", None),
        (r"I think \boxed{1}</think> It is \boxed{2}", "2"),
        (r"I think \boxed{1}</think> no idea,\nreally", None),
        (r"\boxed{}", None),
        ("Therefore\nthe final answer is **42**.", "42"),
        ("Answer: $42$\n", "$42$"),
        ("17", "17"),
        ("**17**", "17"),
        ("`17`.", "17"),
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
    assert time.monotonic() - began < 60.0, "work that grows with the square of the length takes minutes"


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


HEDGES = {
    "5": [
        r"5\text{ or 6}",
        r"5\text{ is wrong}",
        r"5\text{ million}",
        r"5\text{ squared}",
        r"5\text{ thirds}",
        "5²",
        "not 5",
        "5 or 6",
        "5-6",
        "between 4 and 6",
        r"5\text{ (or 6)}",
        r"\frac{5}{1}\text{ or 7}",
        "5_6",
        "x>5",
        "5...",
        "5M",
        "5k",
        "5!",
    ],
    "42": [
        r"\ne 42",
        "≠ 42",
        r"\ge 42",
        "> 42",
        "41=42",
        "40+1=42",
        "x=41=42",
        "m+n=40+1=42",
        "Is it 42?",
        "maybe 42",
        r"\sim 42",
        r"\cancel{42}",
        r"41 \Rightarrow 42",
        r"\text{not }42",
        r"42\text{ and }43",
        "41 42",
        r"\pm 42",
    ],
    r"2\sqrt2": [r"2\sqrt2 \text{ or } 3", r"2\sqrt2\text{ million}", r"\ge 2\sqrt2"],
    r"\text{even}": [r"\text{not even}", "even or odd"],
    r"\text{no}": [r"\text{on}"],
    r"50\%": [r"0.5\%"],
    "7/2": ["3,1/2"],
}


@pytest.mark.parametrize(("hedge", "truth"), [(hedge, truth) for truth, all_ in HEDGES.items() for hedge in all_])
def test_an_answer_that_says_more_than_the_truth_is_wrong(hedge: str, truth: str) -> None:
    assert not answers.equivalent(rf"\boxed{{{hedge}}}", truth, limit_s=20.0)


EQUAL = {
    "50": [r"50\%", "50 percent"],
    "0.5": [r"50\%", r"\frac12\text{ cm}"],
    r"50\%": ["50", "0.5"],
    "7/2": ["3 1/2", r"3\frac{1}{2}", r"3\tfrac12"],
    "-3.5": ["-3 1/2", "–3.5"],
    "1500": ["1.5e3", r"1.5\times10^3", "1500,", "15\u200b00"],
    "12": [
        r"(B)\hspace{}12",
        r"(B)\hspace{1em}12",
        "C. 12",
        r"\text{\text{12}}",
        r"\text{\textbf{(B)}} 12",
        "12 apples",
    ],
    "B": ["B. 15", r"\text{(B)}\ 12"],
    r"\frac13": [r"0.\overline3", r"0.\overline{3}"],
    "42": ["m+n = 40+2 = 42", r"\angle ABC = 42^\circ", r"\text{Area} = 42\text{ square units}", "40+2=42"],
    "(1,2)": ["1<x<2", r"x\in(1,2)"],
    r"[2,\infty)": [r"x\ge 2", "x≥2"],
    r"(-\infty,1)\cup(2,\infty)": [r"x<1\text{ or }x>2", "x < 1 or x > 2"],
    r"\emptyset": [r"\varnothing", "∅"],
    r"16\pi": [r"16\pi\text{ in}^2", "16π", "16 pi"],
    r"3\times10^8": ["3.0e8"],
    "98": [r"98^\circ F", "98 people", "98 cm²", "98."],
    r"2\sqrt3": ["2sqrt(3)", r"\sqrt{12}"],
    r"\text{Evelyn}": ["Evelyn", r"\textbf{evelyn}"],
    "yx": ["xy"],
    r"\begin{pmatrix}1\\ 2\end{pmatrix}": [r"\begin{pmatrix}1\\2\end{pmatrix}"],
}


@pytest.mark.parametrize(("answer", "truth"), [(answer, truth) for truth, all_ in EQUAL.items() for answer in all_])
def test_the_same_answer_in_another_dress_is_right(answer: str, truth: str) -> None:
    assert answers.equivalent(rf"\boxed{{{answer}}}", truth, limit_s=20.0)


def test_an_endless_answer_is_cheap_and_wrong() -> None:
    began = time.monotonic()
    for endless in (r"\text{" * 20_000 + "5" + "}" * 20_000, "5 " * 50_000, r"\frac" * 20_000):
        assert answers.matches(endless, "5", 5.0) is False
        assert answers.canonical(endless) == endless
    assert time.monotonic() - began < 60.0, "no expression is so long to read"


@pytest.mark.parametrize(
    "votes",
    [
        ["042", r"\frac{84}{2}", "42.0", r"\text{(A) }42", r"6\cdot 7"],
        [r"\sqrt 3", r"\sqrt{ 3 }", r"$\sqrt 3$", r"\frac{3}{\sqrt3}"],
        [r"\sqrt8", r"2\sqrt2", r"x = \sqrt{8}"],
        [r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"],
        ["(x+1)^2", "x^2+2x+1"],
        ["1,2", "2,1", r"\{1,2\}"],
        ["1/3", r"0.\overline3"],
        ["Evelyn", r"\text{Evelyn}"],
    ],
)
def test_equal_answers_are_one_vote(votes: list[str]) -> None:
    assert len({answers.canonical(vote, 20.0) for vote in votes}) == 1


def test_votes_for_other_answers_stay_apart() -> None:
    votes = [
        "5",
        "5 or 6",
        r"5\text{ million}",
        "41=5",
        r"\sqrt5",
        "x",
        "(1,2)",
        "[1,2]",
        r"\text{even}",
        r"\text{not even}",
    ]
    assert len({answers.canonical(vote, 20.0) for vote in votes}) == len(votes)


@pytest.mark.slow
def test_a_few_bombs_do_not_hold_up_the_others() -> None:
    texts = [TOWER if index % 8 == 0 else rf"\boxed{{2^{{{index % 8}}}}}" for index in range(64)]
    answers.equivalent(r"\boxed{2^2}", "4", 30.0)
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda job: answers.equivalent(job[1], str(2 ** (job[0] % 8)), 8.0), enumerate(texts)))
    assert sum(found) == 56
    assert time.monotonic() - began < 8 * 8.0, "one after the other they alone would take that long"


REPEATED = [r"\boxed{1000000000!}", r"\boxed{\int_0^\infty e^{-x^{x^x}} dx}"]


@pytest.mark.parametrize("text", [TOWER, *(pytest.param(text, marks=pytest.mark.slow) for text in REPEATED)])
def test_a_pathological_answer_ends_at_the_limit_and_is_wrong(text: str) -> None:
    """Without one it would take hours."""
    with Verifier() as verifier:
        assert verifier.check("2^2", "4", 30.0) is True
        assert not verifier.check(answers.extract(text), "42", 1.0)
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
