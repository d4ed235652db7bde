"""The likelihood objective: literal numbers, and transformers' own loss on the same tokens."""

from __future__ import annotations

import pytest
import torch

from mappa.config import ASSETS
from mappa.epoch import Collected
from mappa.learn.batch import collate
from mappa.learn.loss import likelihood_loss
from mappa.learn.rows import Row
from mappa.objective.base import Start
from mappa.objective.likelihood import Likelihood
from mappa.policy.forward import Policy
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from mappa.select.base import Choice, Chosen
from mappa.types import Task
from tests.conftest import make_action, make_sample


def test_the_loss_is_the_weighted_mean_over_the_steps_tokens():
    logprobs, weights = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 1.0, 0.5])
    assert likelihood_loss(logprobs, weights, 2.5).item() == pytest.approx(1.8)
    parts = [likelihood_loss(logprobs[:1], weights[:1], 2.5), likelihood_loss(logprobs[1:], weights[1:], 2.5)]
    assert sum(parts).item() == pytest.approx(1.8), "however the step is cut"


def test_it_is_transformers_own_loss_where_all_weights_are_one():
    torch.manual_seed(0)
    base = Model(str(ASSETS / "tiny"), "float32").load()
    rows = [
        Row(make_sample(None, name=f"e/{i}", prompt=p, completion=c), torch.ones(c))
        for i, (p, c) in enumerate([(4, 3), (2, 6), (5, 1)])
    ]
    batch = collate([[[row]] for row in rows], pad_id=0)
    labels = batch.input_ids_BT.masked_fill(batch.loss_mask_BT == 0, -100)
    theirs = base(input_ids=batch.input_ids_BT, labels=labels).loss
    policy = Policy(Adapters(base, ["solver"], rank=2), 1.0, 4)
    objective = Likelihood(select=None)
    ours, values = objective.loss(*policy(batch.input_ids_BT, batch.loss_mask_BT), batch, objective.size(rows))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert values["tokens"] == 10
    assert values["nll"].item() / 10 == pytest.approx(theirs.item(), abs=1e-5)


def test_an_empty_micro_batch_has_loss_zero_and_a_gradient():
    base = Model(str(ASSETS / "tiny"), "float32").load()
    adapters = Adapters(base, ["solver"], rank=2)
    batch = collate([], 0, ["solver"])
    loss, values = Likelihood(select=None).loss(
        *Policy(adapters, 1.0, 4)(batch.input_ids_BT, batch.loss_mask_BT), batch, 3.0
    )
    loss.backward()
    assert (loss.item(), values["tokens"].item()) == (0.0, 0.0)


def test_rows_are_the_choices_and_only_the_acts_own_tokens_carry_loss():
    class Everything:
        needs_ratings = False

        def choose(self, made, ratings):
            hinted = make_action(prompt=6, completion=2, name="e/1", plain_ids=(7, 8, 9))
            return Chosen([(Choice(make_action(), Task("t", "q"), 0.5),), (Choice(hinted, Task("t", "q")),)], {})

    objective = Likelihood(Everything(), passes=2, start="base", learning_rate=1e-3)
    prepared = objective.rows(Collected([], {}, 0, None, None, (), lambda value: [value]))
    assert [row.advantages.tolist() for row in prepared.rows] == [[0.5, 0.5, 0.5], [1.0, 1.0]]
    assert objective.size(prepared.rows) == 3.5
    assert (objective.passes, objective.start, objective.temperature) == (2, Start.BASE, 1.0)
    batch = collate([[[row]] for row in prepared.rows], pad_id=0)
    assert batch.input_ids_BT.tolist() == [[3, 4, 10, 11, 12], [7, 8, 9, 10, 11]], "the hint is not learned under"
    assert batch.loss_mask_BT.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
