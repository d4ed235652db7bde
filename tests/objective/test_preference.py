"""DPO and RPO against TRL 1.16.0's DPOTrainer on the shipped tiny model, whose numbers stand here as literals."""

from __future__ import annotations

import math

import pytest
import torch

from mappa.epoch import Collected
from mappa.learn.batch import collate
from mappa.learn.loss import preference_loss
from mappa.learn.packing import cut_micro_batches
from mappa.learn.rows import Row, cut_updates
from mappa.objective.alternate import Alternate
from mappa.objective.base import BaseObjective, Start
from mappa.objective.preference import Preference
from mappa.select.base import Choice, Chosen
from mappa.types import Task
from tests.conftest import make_action, make_sample

NOW = (-16.7592, -30.2670, -21.4088, -14.0222)
REFERENCE = (-17.2639, -31.6531, -21.9673, -14.8845)
LENGTHS = (7, 10, 10, 5)
"""Rows (chosen, rejected, chosen, rejected); sums to four decimals, spread evenly over the action's tokens."""


def spread(totals: tuple[float, ...]) -> torch.Tensor:
    return torch.cat(
        [torch.full((n,), total / n, dtype=torch.float64) for total, n in zip(totals, LENGTHS, strict=True)]
    )


ROWS = torch.cat([torch.full((n,), row) for row, n in enumerate(LENGTHS)])


def test_dpo_and_rpo_are_trls():
    loss, values = preference_loss(spread(NOW), spread(REFERENCE), ROWS, 2.0, beta=0.1, alpha=0.0)
    assert loss.item() == pytest.approx(0.723322, abs=5e-6)
    loss, _ = preference_loss(spread(NOW), spread(REFERENCE), ROWS, 2.0, beta=0.1, alpha=1.0)
    assert loss.item() == pytest.approx(2.990848, abs=5e-6)
    assert values["preferred"].item() == 0.0
    assert values["nll_chosen"].item() == pytest.approx(16.7592 / 7 + 21.4088 / 10)


def test_at_zero_margin_the_loss_is_log_two_and_the_gradient_half_beta():
    logprobs = spread(NOW).requires_grad_()
    loss, _ = preference_loss(logprobs, spread(NOW), ROWS, 1.0, beta=0.1, alpha=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(2))
    assert logprobs.grad[:7].tolist() == pytest.approx([-0.05] * 7)
    assert logprobs.grad[7:17].tolist() == pytest.approx([0.05] * 10)


def pair(name: str, chosen: int = 3, rejected: int = 5, agent: str = "agent") -> list[Row]:
    return [
        Row(
            make_sample(None, name=f"{name}/{kind}", completion=n, agent=agent),
            torch.full((n,), weight),
            ref_logprobs=torch.full((n,), -1.0),
            group=name,
        )
        for kind, n, weight in (("c", chosen, 1.0), ("r", rejected, -1.0))
    ]


def test_pairs_stay_together_and_in_order():
    rows = [row for index in range(5) for row in pair(str(index), 3, 5 + index)]
    for step in cut_updates(rows, 4, seed=0, passes=2):
        for micro in cut_micro_batches(step, token_budget=25):
            names = [row.sample.action.id for ((row,),) in micro]
            assert [n.partition("/")[2] for n in names] == ["c", "r"] * (len(names) // 2)
            assert all(a.partition("/")[0] == b.partition("/")[0] for a, b in zip(names[::2], names[1::2], strict=True))


def test_the_objectives_loss_of_a_batch_is_the_pure_one_however_it_is_cut():
    objective = Preference(None, None, beta=0.5, alpha=1.0)
    rows = [*pair("a", 3, 5), *pair("b", 4, 2)]
    assert objective.size(rows) == 2
    torch.manual_seed(0)
    known = {row.sample.action.id: -torch.rand(len(row.advantages)) for row in rows}

    def loss_of(part: list[Row]) -> float:
        batch = collate([[[row]] for row in part], 0)
        logprobs = torch.cat([known[row.sample.action.id] for row in part])
        return objective.loss(logprobs, torch.zeros_like(logprobs), batch, 2.0)[0].item()

    whole = loss_of(rows)
    assert whole == pytest.approx(loss_of(rows[:2]) + loss_of(rows[2:]))
    sums = [known[row.sample.action.id].sum().item() + len(row.advantages) for row in rows]
    margins = [0.5 * (sums[0] - sums[1]), 0.5 * (sums[2] - sums[3])]
    nll = [-known["a/c"].mean().item(), -known["b/c"].mean().item()]
    assert whole == pytest.approx(sum(math.log1p(math.exp(-m)) + n for m, n in zip(margins, nll, strict=True)) / 2)
    empty = collate([], 0, ["agent"])
    assert objective.loss(torch.zeros(0), torch.zeros(0), empty, 2.0)[0].item() == 0.0


@pytest.mark.parametrize("reference", ["now", "base"])
def test_rows_are_pairs_with_their_reference(reference: str):
    class Pair:
        def choose(self, made, ratings):
            chosen, rejected = make_action("agent", name="c"), make_action("agent", name="r", completion=1)
            return Chosen([(Choice(chosen, Task("t", "q"), 1.0), Choice(rejected, Task("t", "q"), -1.0))], {"x": 1.0})

    class Ratings:
        def rate(self, made):
            return {}

    class Policies:
        def now(self, samples):
            return [torch.full((len(s.action.completion_ids),), -1.0) for s in samples]

        def base(self, samples):
            return [torch.full((len(s.action.completion_ids),), -2.0) for s in samples]

    made = Collected([], {}, 0, None, Policies(), (), lambda value: [value])
    prepared = Preference(Pair(), Ratings(), reference=reference).rows(made)
    assert [row.advantages.tolist() for row in prepared.rows] == [[1, 1, 1], [-1]]
    assert prepared.rows[0].group == prepared.rows[1].group
    assert prepared.rows[1].ref_logprobs.tolist() == [-1.0 if reference == "now" else -2.0]
    assert prepared.metrics == {"x": 1.0}


def test_objectives_in_turn():
    one, other = BaseObjective(), BaseObjective()
    other.start = Start.FRESH
    assert [Alternate(one, other).at(e) is one for e in range(4)] == [True, False, True, False]
    assert [Alternate(one, other, (1, None)).at(e) is one for e in range(4)] == [True, False, False, False]
    assert [Alternate(one, other, (2, 1)).at(e) is one for e in range(6)] == [True, True, False, True, True, False]
