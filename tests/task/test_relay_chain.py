import random

import pytest

from mappa.errors import ConfigError
from mappa.task.relay_chain import RelayChain, check, make
from mappa.types import Task

QUESTION = "Start 3\na+4\nb+9\nc+1"


def test_the_last_digit_is_graded_and_held_out_problems_are_never_trained_on():
    tasks = RelayChain(steps=2, train_size=2048, validation_size=400)
    train, held_out = tasks.train(), tasks.validation()["relay_chain"]
    assert len(train) + len(held_out) == 10 * 9**2
    assert len(held_out) == 810 // 3
    assert not {task.question for task in train} & {task.question for task in held_out}
    task = Task("t", QUESTION, answer="7")
    assert tasks.grade(task, "c+1 6=7", None).score == 1.0
    assert tasks.grade(task, "c+1 6=8", None).score == 0.0
    assert tasks.grade(task, "no idea", None).reason == "no digit was handed over"


def test_the_answer_is_what_careful_seats_come_to():
    from mappa.tiny.relay_chain import say

    rng = random.Random(0)
    for _ in range(50):
        task, before = make(rng, 8), ""
        for index in range(8):
            said = say(rng, task, index, before, 0.0)
            assert check(task.question, index, before or None, said).right
            before = said
        assert RelayChain().grade(task, before, None).score == 1.0


@pytest.mark.parametrize(
    ("index", "before", "said", "parts"),
    [
        (0, None, "a+4 3=7", (True, True, True)),
        (1, "a+4 3=8", "b+9 8=7", (True, True, True)),  # what was wrong when it was handed over is not its fault
        (1, "a+4 3=7", "c+1 7=8", (False, True, True)),
        (1, "a+4 3=7", "b+1 7=8", (False, True, True)),
        (1, "a+4 3=7", "b+9 8=7", (True, False, True)),
        (1, "a+4 3=7", "b+9 7=7", (True, True, False)),
        (9, "a+4 3=7", "b+9 7=6", (False, True, True)),
    ],
)
def test_parts_of_a_step(index, before, said, parts):
    step = check(QUESTION, index, before, said)
    assert (step.own, step.handed, step.total) == parts
    assert step.right == all(parts)


@pytest.mark.parametrize("said", ["", "b+9", "b+9 7=6 and more", "b+9 7 = 6", "b+99 7=6"])
def test_what_is_no_step(said):
    assert check(QUESTION, 1, "a+4 3=7", said) is None


def test_more_steps_than_letters():
    with pytest.raises(ConfigError, match=r"task\.steps=17"):
        RelayChain(steps=17)
