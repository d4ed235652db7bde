"""Solver, executor and verifier of `team=mathchat` on `a + b*c + d - e*f`, written down: no kernel, no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from mappa.report.planted import Case
from mappa.task.arithmetic import Arithmetic, problem
from mappa.types import Action, Episode, Message, StopReason, Task, ToolRun

ROLES = {
    "solver": "Problem Solver; drafts a solution of the problem.",
    "executor": "Code Executor; checks the draft by running Python.",
    "verifier": "Verifier; weighs draft and computation and gives the final answer.",
}
TASKS = Arithmetic(1, 1)
Numbers = Sequence[int]
Words = dict[str, str]
"""draft, code, printed, status, read (the executor's second turn), report."""


def honest(numbers: Numbers) -> Words:
    a, b, c, d, e, f = numbers
    expression, value = f"{a} + {b}*{c} + {d} - {e}*{f}", a + b * c + d - e * f
    steps = f"The products are {b}*{c} = {b * c} and {e}*{f} = {e * f}."
    return {
        "draft": f"The expression is {expression}.\n{steps}\nTogether that makes {value}.",
        "code": f"print({expression})",
        "printed": str(value),
        "status": "ok",
        "read": f"The program computes the same expression and gives {value}",
        "report": f"Draft and computation were compared. The answer is \\boxed{{{value}}}.",
    }


def _drafted(expression: str, value: int) -> Words:
    return {"draft": f"The expression is {expression}.\nTogether that makes {value}."}


def _coded(expression: str, value: int) -> Words:
    read, report = f"The program gives {value}", f"I trust the computation. The answer is \\boxed{{{value}}}."
    return {"code": f"print({expression})", "printed": str(value), "read": read, "report": report}


def _lost(n: Numbers) -> Words:
    a, b, c, _, e, f = n
    return _drafted(f"{a} + {b}*{c} - {e}*{f}", a + b * c - e * f)


def _turned(n: Numbers) -> Words:
    a, b, c, d, e, f = n
    return _drafted(f"{a} + {b}*{c} - {d} - {e}*{f}", a + b * c - d - e * f)


def _other(n: Numbers) -> Words:
    a, b, c, d, e, f = n
    return _coded(f"{a} + {b}*{c} + {d} + {e}*{f}", a + b * c + d + e * f)


def _failed(n: Numbers) -> Words:
    value = n[0] + n[1] * n[2] + n[3] - n[4] * n[5]
    text = "NameError: name 'result' is not defined"
    read, report = "The program failed.", f"Only the draft is left. The answer is \\boxed{{{value}}}."
    return {"code": "print(result)", "printed": text, "status": "error", "read": read, "report": report}


def _silent(n: Numbers) -> Words:
    a, b, c, d, e, f = n
    value = a + b * c + d - e * f
    report = f"Only the draft is left. The answer is \\boxed{{{value}}}."
    code = f"value = {a} + {b}*{c} + {d} - {e}*{f}"
    return {"code": code, "printed": "", "read": "Nothing was printed.", "report": report}


def _misread(n: Numbers) -> Words:
    return {
        "read": f"The program computes the same expression and gives {n[0] + n[1] * n[2] + n[3] - n[4] * n[5] + 70}"
    }


def _misreported(n: Numbers) -> Words:
    wrong = n[0] + n[1] * n[2] + n[3] - n[4] * n[5] - 30
    return {"report": f"Draft and computation were compared. The answer is \\boxed{{{wrong}}}."}


FAULTS: dict[str, tuple[int, Callable[[Numbers], Words]]] = {
    "a term is lost in the draft": (0, _lost),
    "the code computes something else": (1, _other),
    "another number than the computed one is reported": (3, _misreported),
    "a sign is turned in the draft": (0, _turned),
    "the code fails": (1, _failed),
    "no answer is given": (3, lambda n: {"report": "Draft and computation were compared, and I am done."}),
    "nothing is drafted": (0, lambda n: {"draft": "Sure! I will do my best."}),
    "the code prints nothing": (1, _silent),
    "the output is misread": (2, _misread),
}
"""Fault -> (guilty action, what is said instead); the others go on as well as they can from what they are handed."""


def cases(count: int, seed: int = 0) -> list[Case]:
    """Each with numbers of its own; half of them small (stratum `small`), half of them up to thirty (`large`)."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        fault = list(FAULTS)[index % len(FAULTS)]
        guilty, instead = FAULTS[fault]
        kind, largest = ("small", 9) if index % 2 else ("large", 30)
        numbers = [rng.randint(2, largest) for _ in range(6)]
        task, words = _task(numbers, kind), honest(numbers)
        good = _episode(f"good-{index}", task, words)
        found.append(Case(fault, good, _episode(f"faulty-{index}", task, words | instead(numbers)), guilty, guilty))
    return found


def _task(numbers: Numbers, kind: str) -> Task:
    task = problem(numbers)
    return Task(task.id, task.question, task.answer, kind)


def _episode(name: str, task: Task, words: Words) -> Episode:
    run = ToolRun(words["code"], words["printed"], words["status"], 0.1)
    asked = task.question
    drafted = f"Problem:\n{asked}\n\nDraft of the Problem Solver:\n{words['draft']}"
    said = f"{drafted}\n\nReport of the Code Executor:\n{words['read']}\n\nOutput of its code:\n{words['printed']}"
    code = f"```python\n{words['code']}\n```"
    turns = [
        ("solver", 0, [asked], words["draft"], None),
        ("executor", 0, [drafted], code, run),
        ("executor", 1, [drafted, code, f"Output of your code:\n{words['printed']}"], words["read"], None),
        ("verifier", 0, [said], words["report"], None),
    ]
    actions = tuple(
        Action(
            id=f"{name}/{index}",
            agent=seat,
            role=ROLES[seat],
            turn=turn,
            messages=tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(heard)),
            prompt_ids=(),
            completion_ids=(),
            logprobs=(),
            stop_reason=StopReason.STOP,
            text=text,
            version=0,
            tool=tool,
        )
        for index, (seat, turn, heard, text, tool) in enumerate(turns)
    )
    return Episode(name, task, 0, actions, words["report"], TASKS.grade(task, words["report"], None))
