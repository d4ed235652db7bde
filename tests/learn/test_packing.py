"""Acts in one row: who sees whom, what it saves, and that nothing else changes."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mappa.config import ASSETS
from mappa.learn.batch import collate, ordered
from mappa.learn.packing import DENSE_TOKENS, WASTE, computed_tokens, cut_micro_batches, fill, lay_out, length
from mappa.learn.policies import Old, TeamPolicies
from mappa.learn.rows import Row, needed_tokens
from mappa.policy.attention import Packing, packing_of
from mappa.policy.forward import Policy
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from tests.conftest import make_sample

AGENTS = ("solver", "verifier")


def act(name: str, prompt: Sequence[int], *said: Sequence[int], agent: str = "solver", shown: int = 1) -> list[Row]:
    """Turns of one act, each after what was said before it and `shown` tokens of a tool."""
    rows, ids = [], tuple(prompt)
    for turn, words in enumerate(said):
        told = {"prompt_ids": ids, "completion_ids": tuple(words), "logprobs": (-0.5,) * len(words), "turn": turn}
        rows.append(Row(make_sample(0.5, name=f"{name}/{turn}", agent=agent, **told), torch.full((len(words),), 1.0)))
        ids = (*ids, *words, *range(50, 50 + shown))
    return rows


def samples(tasks: int, each: int, prompt: int, said: int, turns: int = 1, seed: int = 0) -> list[Row]:
    """`each` acts at every task, by both agents; lengths of what is said differ."""
    rng, rows = random.Random(seed), []
    for task in range(tasks):
        asked = [rng.randrange(3, 300) for _ in range(prompt)]
        for attempt in range(each):
            for agent in AGENTS:
                words = [[rng.randrange(3, 300) for _ in range(rng.randint(1, said))] for _ in range(turns)]
                rows += act(f"{task}-{attempt}-{agent}", [*asked, len(agent)], *words, agent=agent)
    return rows


def test_what_two_acts_begin_with_is_there_once_literal():
    line = [act("a", [7, 8, 9], [1, 2], [3]), act("b", [7, 8, 9], [1, 4])]
    layout = lay_out(line)
    #                     a: 7  8  9  1  2 tool 3    b: 9  1  4
    assert layout.ids == [7, 8, 9, 1, 2, 50, 3, 9, 1, 4]
    assert layout.positions == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4]
    assert layout.ends == [10, 10, 7, 7, 7, 7, 7, 10, 10, 10]
    assert layout.starts == [3, 6, 8]
    assert length(line) == 10
    batch = collate([line], pad_id=0)
    assert batch.loss_mask_BT.tolist() == [[0, 0, 0, 1, 1, 0, 1, 0, 1, 1]]
    assert batch.sizes == (2, 1, 2)


def test_prompts_may_branch_again_and_again_and_end_within_one_another():
    line = [act("a", [7, 8, 9, 5], [1]), act("b", [7, 8, 9, 6], [1]), act("c", [7, 8], [9, 9]), act("d", [2], [1])]
    layout = lay_out(line)
    assert layout.ids == [7, 8, 9, 5, 1, 6, 1, 8, 9, 9, 2, 1]
    assert layout.positions == [0, 1, 2, 3, 4, 3, 4, 1, 2, 3, 0, 1]
    assert layout.ends == [10, 7, 7, 5, 5, 7, 7, 10, 10, 10, 12, 12]
    assert layout.starts == [4, 6, 8, 11]


def test_a_prompt_of_one_token_or_none_has_nothing_to_share():
    for prompt in ([7], []):
        line = [act("a", prompt, [1, 2]), act("b", prompt, [1, 2])]
        assert length(line) == sum(one[-1].length for one in line)
        assert lay_out(line).ids == [*prompt, 1, 2] * 2


def seen(layout, place: int) -> list[int]:
    return [layout.ids[j] for j in range(place + 1) if place < layout.ends[j]]


@pytest.mark.parametrize("packing", Packing)
def test_every_sampled_token_sees_the_tokens_of_its_own_act_and_no_other(packing: Packing):
    rows = samples(tasks=3, each=4, prompt=12, said=4, turns=2)
    micro = cut_micro_batches(rows, 120, packing=packing)
    found = [row.sample.action.id for part in micro for row in ordered(part)]
    assert sorted(found) == sorted(row.sample.action.id for row in rows)
    for line in (line for part in micro for line in part):
        layout = lay_out(line)
        assert len(layout.ids) == length(line)
        for start, row in zip(layout.starts, (row for one in line for row in one), strict=True):
            for place in range(start, start + len(row.advantages)):
                assert seen(layout, place) == list(row.ids[: layout.positions[place] + 1])
                assert layout.positions[place] == layout.positions[place - 1] + 1
    for part in micro:
        held = [length(line) for line in part]
        assert len(part) == 1 or len(part) * max(held) <= min(120, WASTE * sum(held))


def test_a_line_has_fewer_tokens_and_no_larger_squares():
    rows = samples(tasks=5, each=8, prompt=40, said=10)
    lines = [line for part in cut_micro_batches(rows, 4096, packing=Packing.SHARED) for line in part]
    assert any(len(line) > 1 for line in lines)
    for line in lines:
        alone = [one[-1].length for one in line]
        assert length(line) ** 2 <= sum(size**2 for size in alone)
    assert sum(map(length, lines)) < 0.6 * needed_tokens(rows)


def test_little_in_common_is_not_worth_it_and_a_square_has_its_limit():
    little = [act("a", [1, 2, 3], range(60, 80)), act("b", [1, 2, 3], range(60, 80))]
    assert [len(line) for line in fill(little, Packing.SHARED, 4096)] == [1, 1]
    assert [len(line) for line in fill(little, Packing.FULL, 4096)] == [2]
    long = [act(str(index), range(DENSE_TOKENS - 14), [1, 2, 3, 4, index]) for index in range(4)]
    assert [len(line) for line in fill(long, Packing.SHARED, 10**6)] == [2, 2]
    assert [len(line) for line in fill(long, Packing.FULL, 10**6)] == [4]


def test_full_lines_have_hardly_any_padding_whatever_the_lengths():
    rng = random.Random(1)
    rows = [
        row
        for index in range(60)
        for row in act(str(index), [rng.randrange(3, 300) for _ in range(rng.randint(20, 400))], [1, 2])
    ]
    alone, full = (cut_micro_batches(rows, 4096, packing=packing) for packing in (Packing.ALONE, Packing.FULL))
    assert computed_tokens(full) <= 1.05 * needed_tokens(rows)
    assert len(full) < len(alone)


# ---------------------------------------------------------------------- the model
def policies_of(adapters: Adapters, packing: Packing | None = None) -> TeamPolicies:
    found = TeamPolicies(Policy(adapters, 1.0, 64), adapters, 0, 600, 0.2, lambda: Old.NOT_NEEDED)
    found._packing = packing or found._packing
    return found


def learned(policies: TeamPolicies, rows: list[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Log-probabilities by action, and the gradient of a weighted sum of them, over all micro-batches."""
    found = {}
    for part in policies.micro_batches(rows):
        logprobs_N, _ = policies.forward(collate(part, 0))
        order = ordered(part)
        values = logprobs_N.split([len(row.advantages) for row in order])
        found |= {row.sample.action.id: value.detach() for row, value in zip(order, values, strict=True)}
        weights = torch.cat([torch.linspace(0.5, 1.5, len(row.advantages)) for row in order])
        (logprobs_N * weights).sum().backward()
    gradient = torch.cat([p.grad.flatten() for agent in AGENTS for p in policies.adapters.parameters(agent)])
    policies.adapters.model.zero_grad()
    return found, gradient


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packing", [Packing.SHARED, Packing.FULL])
def test_the_same_log_probabilities_and_gradients_as_alone(attention: str, packing: Packing):
    base = Model(str(ASSETS / "tiny"), "float32", attention, gradient_checkpointing=packing is Packing.FULL).load()
    adapters = Adapters(base, AGENTS, rank=4, alpha=8)
    adapters.model.train()
    rows = samples(tasks=3, each=6, prompt=30, said=8, turns=2)
    with adapters.disturbed():
        alone, theirs = learned(policies_of(adapters, Packing.ALONE), rows)
        policies = policies_of(adapters, packing)
        together, ours = learned(policies, rows)
    assert policies._trusted
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values, atol=2e-5, rtol=0)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def test_one_voice_for_all_and_bfloat16():
    adapters = Adapters(Model(str(ASSETS / "tiny"), "bfloat16").load(), AGENTS, rank=4, alpha=8)
    adapters.precision = lambda: torch.autocast("cpu", torch.bfloat16)
    rows = [row.sample for row in samples(tasks=2, each=6, prompt=30, said=8)]
    with adapters.disturbed():
        for way in ("now", "base"):
            alone = torch.cat(getattr(policies_of(adapters, Packing.ALONE), way)(rows))
            policies = policies_of(adapters)
            together = torch.cat(getattr(policies, way)(rows))
            assert policies._trusted
            assert (together - alone).abs().mean() < 0.02


def test_blocks_of_flex_attention_learn_the_same(monkeypatch):
    """Not compiled, and torch's own refusal of a backward pass on the CPU lifted: what a GPU compiles is this."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    base = Model(str(ASSETS / "tiny"), "float32", "flex_attention").load()
    assert packing_of(base) is Packing.FULL
    adapters = Adapters(base, AGENTS, rank=4, alpha=8)
    rows = samples(tasks=3, each=4, prompt=30, said=8, turns=2)
    with torch.compiler.set_stance("force_eager"), adapters.disturbed():
        policies = policies_of(adapters)
        together, ours = learned(policies, rows)
        base.set_attn_implementation("sdpa")
        alone, theirs = learned(policies_of(adapters, Packing.ALONE), rows)
    assert policies._trusted
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values, atol=2e-5, rtol=0)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def test_layers_that_look_back_only_so_far_keep_acts_apart():
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    with torch.device("meta"):
        for kind, more, expected in (
            ("mistral", {"sliding_window": 8}, Packing.ALONE),
            ("mistral", {"sliding_window": None}, Packing.SHARED),
            ("gemma3_text", {}, Packing.ALONE),
            ("llama", {}, Packing.SHARED),
        ):
            config = AutoConfig.for_model(kind, **sizes, **heads, **more)
            assert packing_of(AutoModelForCausalLM.from_config(config)) is expected, kind


def test_a_model_that_does_not_keep_acts_apart_is_told_and_has_them_alone(caplog, monkeypatch):
    adapters = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8)
    rows = [row.sample for row in samples(tasks=2, each=6, prompt=30, said=8)]
    right = policies_of(adapters, Packing.ALONE).now(rows)
    monkeypatch.setattr("mappa.policy.forward.seen_mask", lambda base, ends_BT: None)
    policies = policies_of(adapters)
    with caplog.at_level(logging.WARNING):
        found = policies.now(rows)
    assert "each has a row of its own from here on" in caplog.text
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_positions_are_not_looked_at_for_rows_of_one_act(monkeypatch):
    """On a GPU the host would wait for them in every micro-batch."""
    adapters = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8)
    rows = [row.sample for row in samples(tasks=3, each=1, prompt=30, said=8)]
    right = policies_of(adapters, Packing.ALONE).now(rows)

    def looked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", looked)
    found = policies_of(adapters, Packing.ALONE).now(rows)
    assert torch.equal(torch.cat(found), torch.cat(right))
    with pytest.raises(AssertionError):
        adapters.base.base_model(input_ids=torch.zeros((1, 4), dtype=torch.long), use_cache=False)
