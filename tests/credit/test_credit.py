"""Credit schemes against literal numbers and an independent implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mappa.config import check
from mappa.credit.base import moments
from mappa.credit.grpo import GRPO
from mappa.credit.reinforce_pp import ReinforcePP, returns
from mappa.credit.reinforce_pp_baseline import ReinforcePPBaseline
from mappa.errors import ConfigError
from mappa.types import StopReason
from tests.conftest import compose_config, make_sample


def alone(value):
    return [value]


def test_returns_literal():
    # r = 0.8, beta = 0.1, kappa = [1, 2, 3]: sums from t on are 6, 5, 3
    value = returns(0.8, 3, torch.tensor([1.0, 2.0, 3.0]), 0.1)
    assert torch.allclose(value, torch.tensor([0.2, 0.3, 0.5]))


def test_reinforce_pp_literal():
    # rewards 1 (one token) and 0 (three tokens): token mean 0.25, variance 0.1875
    samples = [make_sample(1.0, completion=1, name="a"), make_sample(0.0, completion=3, name="b")]
    first, second = ReinforcePP(beta=0.0).advantages(samples, [None, None], alone).advantages
    std = 0.1875**0.5
    assert first.tolist() == pytest.approx([0.75 / std])
    assert second.tolist() == pytest.approx([-0.25 / std] * 3)


def test_two_actions_of_one_agent_in_one_episode_get_their_own_advantages():
    samples = [make_sample(0.9, name="e/0", turn=0), make_sample(0.1, name="e/1", turn=1)]
    first, second = ReinforcePP(beta=0.0).advantages(samples, [None, None], alone).advantages
    assert first.min() > 0.9
    assert second.max() < -0.9


def test_whitening_is_per_agent():
    samples = [
        make_sample(1.0, agent="a", name="1"),
        make_sample(0.8, agent="a", name="2"),
        make_sample(0.2, agent="b", name="3"),
        make_sample(0.0, agent="b", name="4"),
    ]
    values = [v.mean().item() for v in ReinforcePP(beta=0.0).advantages(samples, [None] * 4, alone).advantages]
    assert values == pytest.approx([1, -1, 1, -1], abs=2e-3)
    pooled = [v.mean().item() for v in ReinforcePP(0.0, scope="team").advantages(samples, [None] * 4, alone).advantages]
    assert pooled[1] > 0 > pooled[2]


def test_normalize_by_stratum_removes_the_judges_bias_for_a_kind_of_task():
    samples = [
        make_sample(r, kind=k, name=str(i)) for i, (r, k) in enumerate([(0.9, "x"), (0.7, "x"), (0.4, "y"), (0.2, "y")])
    ]
    values = [
        v.mean().item()
        for v in ReinforcePP(0.0, normalize_by="stratum").advantages(samples, [None] * 4, alone).advantages
    ]
    assert values == pytest.approx([1, -1, 1, -1], abs=2e-3)


def test_invalid_actions_enter_nothing():
    valid = [make_sample(1.0, name="a"), make_sample(0.0, name="b")]
    junk = [make_sample(None, name="c"), make_sample(0.3, stop=StopReason.LENGTH, name="d")]
    credited = ReinforcePP().advantages([*valid, *junk], [torch.zeros(3), torch.zeros(3), None, None], alone)
    assert credited.advantages[2] is None
    assert credited.advantages[3] is None
    without = ReinforcePP().advantages(valid, [torch.zeros(3)] * 2, alone).advantages
    assert torch.equal(credited.advantages[0], without[0])


def test_baseline_literal():
    # groups (t1) 1.0, 0.0 -> +-0.5 and (t2) 0.6, 0.6 -> 0, 0; whitened by std sqrt(0.125) over equal lengths
    samples = [
        make_sample(r, task=t, name=f"{t}{i}")
        for i, (r, t) in enumerate([(1.0, "t1"), (0.0, "t1"), (0.6, "t2"), (0.6, "t2")])
    ]
    values = [v[0].item() for v in ReinforcePPBaseline().advantages(samples, [None] * 4, alone).advantages]
    assert values == pytest.approx([2**0.5, -(2**0.5), 0, 0], abs=1e-3)


def test_a_group_of_one_has_no_baseline_and_enters_nothing():
    """Alone on its task, here or on another rank: neither learned from nor counted in the mean of the others."""
    pair = [make_sample(r, completion=n, name=str(n)) for r, n in ((1.0, 1), (0.0, 3))]
    single = make_sample(0.9, task="other", name="single")
    values = ReinforcePPBaseline().advantages([*pair, single], [None] * 3, alone).advantages
    without = ReinforcePPBaseline().advantages(pair, [None] * 2, alone).advantages
    assert values[2] is None
    assert [v.tolist() for v in values[:2]] == [v.tolist() for v in without]


def test_grpo_literal():
    # group 1.0, 0.5, 0.0: mean 0.5, std sqrt(1/6)
    samples = [make_sample(r, name=str(r)) for r in (1.0, 0.5, 0.0)]
    values = [v[0].item() for v in GRPO().advantages(samples, [None] * 3, alone).advantages]
    assert values == pytest.approx([1.2247, 0.0, -1.2247], abs=1e-3)


def test_groups_keep_turns_apart():
    samples = [make_sample(1.0, turn=0, name="a"), make_sample(0.0, turn=1, name="b")]
    values = [v[0].item() for v in GRPO().advantages(samples, [None] * 2, alone).advantages]
    assert values == [0.0, 0.0]


def test_against_an_independent_implementation():
    """numpy, one flat vector of tokens, straight from the paper's equations."""
    rng = np.random.default_rng(0)
    lengths, rewards = rng.integers(1, 9, 20), rng.random(20)
    kls = [rng.normal(size=n).astype(np.float32) for n in lengths]
    samples = [
        make_sample(float(r), completion=int(n), name=str(i))
        for i, (r, n) in enumerate(zip(rewards, lengths, strict=True))
    ]
    ours = ReinforcePP(beta=0.05).advantages(samples, [torch.from_numpy(k) for k in kls], alone).advantages
    raw = [np.array([r - 0.05 * k[t:].sum() for t in range(len(k))]) for r, k in zip(rewards, kls, strict=True)]
    flat = np.concatenate(raw)
    expected = (flat - flat.mean()) / np.repeat(rewards, lengths).std()
    assert torch.cat(ours).numpy() == pytest.approx(expected, abs=1e-4)


def test_two_ranks_give_the_moments_of_one():
    values = [("a", torch.tensor([0.1, 0.7])), ("a", torch.tensor([0.3])), ("b", torch.tensor([5.0]))]
    parts: list = []
    moments(values[:1], lambda mine: parts.append(mine) or [mine])
    moments(values[1:], lambda mine: parts.append(mine) or [mine])
    one = moments(values, alone)
    assert moments([], lambda mine: parts) == one
    assert moments([], lambda mine: parts[::-1]) == one


def test_a_constant_reward_gives_no_advantage():
    samples = [make_sample(0.7, name=str(i)) for i in range(5)]
    for kl in (1e-7, 0.05):  # rounding, and a KL that would make a full-size update of nothing
        kls = [torch.full((3,), kl * i) for i in range(5)]
        assert not torch.cat(ReinforcePP().advantages(samples, kls, alone).advantages).any()


def test_rewards_that_hardly_differ_make_a_small_update():
    samples = [make_sample(r, name=str(i)) for i, r in enumerate([1.0] * 99 + [0.9])]
    values = torch.cat(ReinforcePP(beta=0.0).advantages(samples, [None] * 100, alone).advantages)
    assert values[-1].item() == pytest.approx(-0.099 / 0.05)
    assert values[0].item() == pytest.approx(0.001 / 0.05, rel=1e-3)


def test_the_kl_does_not_change_the_scale():
    samples = [make_sample(r, completion=1, name=str(r)) for r in (0.0, 1.0)]
    values = ReinforcePP(beta=1.0).advantages(samples, [torch.tensor([0.0]), torch.tensor([4.0])], alone).advantages
    assert torch.cat(values).tolist() == pytest.approx([3.0, -3.0])  # 0 and -3, mean -1.5, spread of the rewards 0.5


@pytest.mark.parametrize("override", ["credit.scope=galaxy", "credit.normalize_by=moon", "credit.beta=-1"])
def test_a_bad_value_is_a_config_error(override: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^{override} must be "):
        check(compose_config(["+experiment=quickstart", override], tmp_path))
