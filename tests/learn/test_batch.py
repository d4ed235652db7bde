"""Literal token lists and masks, so that a reader can check them by eye."""

from __future__ import annotations

from dataclasses import replace

import torch

from mappa.learn.batch import collate, parts
from mappa.learn.packing import WASTE, computed_tokens, cut_micro_batches, length, speaker
from mappa.learn.rows import Row, acts, cut_updates, row_warnings
from tests.conftest import make_sample


def row(name: str, prompt: int = 2, completion: int = 3, agent: str = "solver") -> Row:
    sample = make_sample(0.5, name=name, prompt=prompt, completion=completion, agent=agent)
    return Row(sample, torch.arange(1.0, completion + 1))


def test_collate_literal():
    batch = collate([[[row("a", 2, 3)]], [[row("b", 1, 2)]]], pad_id=0)
    assert batch.input_ids_BT.tolist() == [[3, 4, 10, 11, 12], [3, 10, 11, 0, 0]]
    assert batch.loss_mask_BT.tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.advantages_BT.tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 0, 0]]
    assert batch.engine_logprobs_BT.tolist() == [[0, 0, -0.5, -0.5, -0.5], [0, -0.5, -0.5, 0, 0]]
    assert batch.old_logprobs_BT is None


def test_an_empty_micro_batch_carries_no_loss():
    batch = collate([], 7, ["solver"])
    assert batch.input_ids_BT.tolist() == [[7, 7]]
    assert batch.loss_mask_BT.sum() == 0


def test_micro_batches_respect_the_budget_padding_included():
    rows = [row(str(i), prompt=p, completion=1) for i, p in enumerate([9, 4, 3, 9, 1])]
    cut = cut_micro_batches(rows, token_budget=20)
    assert [[length(line) for line in part] for part in cut] == [[10, 10], [5], [4], [2]]
    assert sorted(r.sample.action.id for part in cut for ((r,),) in part) == ["0", "1", "2", "3", "4"]


def test_a_row_over_the_budget_is_kept():
    cut = cut_micro_batches([row("a", 50), row("b", 2)], token_budget=10)
    assert [len(part) for part in cut] == [1, 1]


def test_updates_partition_the_rows_evenly_per_agent():
    rows = [row(f"{agent}{i}", agent=agent) for agent in ("a", "b") for i in range(5)]
    steps = cut_updates(rows, 2, seed=1)
    names = [sorted(r.sample.action.id for r in step) for step in steps]
    assert sorted(names[0] + names[1]) == sorted(r.sample.action.id for r in rows)
    assert [sum(n.startswith("a") for n in step) for step in names] == [3, 2]
    assert cut_updates(rows, 2, seed=1) == steps
    assert cut_updates(rows, 2, seed=2) != steps


def test_eight_ranks_cut_what_one_process_does():
    """36 rows, 4 updates: 9 rows a step, the very same ones, whoever holds them."""
    rows = [row(f"{episode:05d}/{turn}", agent="a") for episode in range(18) for turn in range(2)]
    whole = [[r.sample.action.id for r in step] for step in cut_updates(rows, 4, seed=1)]
    assert [len(step) for step in whole] == [9, 9, 9, 9]
    held = [[r for r in rows if int(r.sample.action.id[:5]) % 8 == rank] for rank in range(8)]
    told: list = []
    for mine in held:
        cut_updates(mine, 4, seed=1, gather=lambda value: told.append(value) or [value])
    cut = [cut_updates(mine, 4, seed=1, gather=lambda value: told, rank=rank) for rank, mine in enumerate(held)]
    together = [sorted(r.sample.action.id for steps in cut for r in steps[step]) for step in range(4)]
    assert together == [sorted(step) for step in whole]


def test_fewer_rows_than_updates_leave_empty_steps():
    assert [len(step) for step in cut_updates([row("a")], 3, seed=0)] == [1, 0, 0]


def test_passes_go_over_all_rows_each_in_its_own_steps_and_order():
    rows = [row(f"{agent}{i}", agent=agent) for agent in ("a", "b") for i in range(6)]
    steps = cut_updates(rows, 4, seed=1, passes=2)
    names = [[r.sample.action.id for r in step] for step in steps]
    everything = sorted(r.sample.action.id for r in rows)
    assert sorted(names[0] + names[1]) == sorted(names[2] + names[3]) == everything
    assert names[0] + names[1] != names[2] + names[3]
    assert names[:2] == [[r.sample.action.id for r in step] for step in cut_updates(rows, 2, seed=1)]


def test_what_leaves_too_little_to_learn_from_is_told():
    agents = ["a", "b", "c"]
    assert row_warnings({"a": 0}, agents, 2.0, anew=True) == ["nothing was kept to learn from; no update is made"]
    (left_out, few) = row_warnings({"a": 40, "b": 15}, agents, 2.0, anew=True)
    assert left_out == "nothing of c was kept; no update for it"
    assert few.startswith("b learns from 7.5 actions a step")
    assert row_warnings({"a": 40, "b": 15, "c": 16}, agents, 2.0, anew=False) == []
    assert row_warnings({"a": 40, "b": 16, "c": 16}, agents, 2.0, anew=True) == []


def act(name: str, turns: int, agent: str = "solver", prompt: int = 4, said: int = 5, shown: int = 3) -> list[Row]:
    """Turns of one act: each sees what was said before it, and `shown` tokens of tool output."""
    rows, ids = [], tuple(range(100, 100 + prompt))
    for turn in range(turns):
        words = tuple(range(10, 10 + said))
        action = {"prompt_ids": ids, "completion_ids": words, "logprobs": (-0.5,) * said, "turn": turn}
        rows.append(
            Row(make_sample(0.5, name=f"{name}/{turn}", agent=agent, **action), torch.full((said,), turn + 1.0))
        )
        ids = (*ids, *words, *range(50, 50 + shown))
    return rows


def test_the_turns_of_an_act_are_one_row_literal():
    batch = collate([acts(act("e", 2, prompt=2, said=2, shown=1))], pad_id=0)
    assert batch.input_ids_BT.tolist() == [[100, 101, 10, 11, 50, 10, 11]]
    assert batch.loss_mask_BT.tolist() == [[0, 0, 1, 1, 0, 1, 1]]
    assert batch.advantages_BT.tolist() == [[0, 0, 1, 1, 0, 2, 2]]


def test_what_goes_on_from_other_tokens_is_an_act_of_its_own():
    said = act("e", 4)
    critic = replace(said[3].sample.action, agent="critic")
    rows = [
        *said[:3],
        Row(replace(said[3].sample, action=critic), said[3].advantages),
        *act("f", 1),
        *act("e", 2, prompt=5),
    ]
    assert [len(found) for found in acts(rows)] == [3, 1, 1, 2]
    assert [len(found) for found in acts(rows, by_agent=False)] == [4, 1, 2], "one voice speaks for solver and critic"
    without = [rows[0], rows[2]]  # the turn between was truncated, and is only seen
    assert [len(found) for found in acts(without)] == [2]
    assert [len(found) for found in acts([replace(row, group=row.sample.action.id) for row in rows[:3]])] == [1, 1, 1]


def test_an_act_stays_in_one_step():
    rows = [row for index in range(7) for row in act(f"{index:05d}", 1 + index % 4)]
    for step in cut_updates(rows, 3, seed=0):
        for found in acts(step):
            assert len(found) == 1 + int(found[0].episode) % 4


def test_hardly_more_tokens_are_computed_than_needed():
    """A data-science team: up to four turns each; as rows of their own they took twice the tokens."""
    rows = [
        row
        for index in range(32)
        for agent in ("engineer", "modeler", "analyst")
        for row in act(f"{index:05d}{agent}", 1 + index * 7 % 4, agent, prompt=40 + index, said=48, shown=96)
    ]
    needed = sum(found[-1].length for found in acts(rows))
    assert needed <= computed_tokens(cut_micro_batches(rows, 16384)) <= WASTE * needed
    assert sum(row.length for row in rows) > 1.6 * needed


def test_agents_share_a_micro_batch_and_everyone_is_in_the_graph():
    rows = [row("a", agent="verifier"), row("b", agent="solver"), row("c", agent="verifier")]
    ((*mixed,),) = cut_micro_batches(rows, 100)
    batch = collate(mixed, 0, ["executor", "solver"])
    assert batch.speakers == (("executor", 1), ("solver", 1), ("verifier", 2))
    assert [(agent, where.stop - where.start) for agent, where, _ in parts(batch)] == [
        ("executor", 0),
        ("solver", 3),
        ("verifier", 6),
    ]
    assert [len({speaker(line) for line in part}) for part in cut_micro_batches(rows, 100, mix=False)] == [1, 1]
