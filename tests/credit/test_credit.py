"""Credit schemes against literal numbers and an independent implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mappa.config import check
from mappa.credit.base import moments
from mappa.credit.correct import Correct
from mappa.credit.grpo import GRPO
from mappa.credit.leave_one_out import LeaveOneOut
from mappa.credit.rae import RAE
from mappa.credit.reinforce_pp import ReinforcePP, returns
from mappa.credit.reinforce_pp_baseline import ReinforcePPBaseline
from mappa.credit.state_delta import StateDelta
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


def first(credited):
    """One number a sample."""
    return [None if value is None else pytest.approx(value[0].item(), abs=1e-6) for value in credited.advantages]


def test_rae_literal():
    """b of a: 0.5, the first epoch's mean; then 0.25 * 0.5 + 0.75 * 1.0 = 0.875 with decay 0.5 and two actions."""
    scheme = RAE(decay=0.5, beta=0.0)
    epoch = [make_sample(1.0, agent="a", name="1/0"), make_sample(0.0, agent="a", name="2/0")]
    other = make_sample(0.3, agent="b", name="1/1")
    assert first(scheme.advantages([*epoch, other], [None] * 3, alone)) == [0.5, -0.5, 0.0]
    later = [make_sample(1.0, agent="a", name="3/0"), make_sample(1.0, agent="a", name="4/0")]
    unjudged = make_sample(None, agent="a", name="5/0")
    credited = scheme.advantages([*later, unjudged], [None] * 3, alone)
    assert first(credited) == [0.125, 0.125, None]
    assert credited.metrics == pytest.approx({"baseline/a": 0.875, "baseline/b": 0.3})
    resumed = RAE(decay=0.5, beta=0.0)
    resumed.load_state_dict(scheme.state_dict())
    assert first(resumed.advantages(later, [None] * 2, alone)) == [pytest.approx(1 - 0.96875)] * 2


def test_rae_is_the_papers_average_where_rewards_are_equal():
    """Independent: action by action, as SPIRAL's algorithm has it."""
    scheme, baseline = RAE(decay=0.95, beta=0.0), 0.2
    scheme.load_state_dict({"a": baseline})
    for _ in range(7):
        baseline = 0.95 * baseline + 0.05 * 0.8
    samples = [make_sample(0.8, agent="a", name=f"{i}/0") for i in range(7)]
    assert first(scheme.advantages(samples, [None] * 7, alone)) == [pytest.approx(0.8 - baseline)] * 7


def test_seats_with_one_adapter_have_baselines_of_their_own():
    pair = [make_sample(1.0, agent="both", seat="x", name="1/0"), make_sample(0.0, agent="both", seat="y", name="1/1")]
    assert first(RAE(beta=0.0).advantages(pair, [None] * 2, alone)) == [0.0, 0.0]


def test_state_delta_literal():
    """States 1 -> 1.0, 0.4, 0.6 change by 0, -0.6, +0.2; smeared back with 0.5: -0.25, -0.5, 0.2."""
    values = {0: 1.0, 1: 0.4, 3: 0.6}
    scheme = StateDelta(gamma=0.5, start=1.0, beta=0.0)
    samples = [make_sample(v, agent=f"seat{i}", name=f"run/7/{i}") for i, v in values.items()]
    unknown = make_sample(None, agent="seat2", name="run/7/2")
    assert scheme._changes([*reversed(samples), unknown]) == pytest.approx(
        {"run/7/0": -0.25, "run/7/1": -0.5, "run/7/3": 0.2}
    )
    alone_in_time = StateDelta(gamma=0.0, beta=0.0)._changes(samples)
    assert list(alone_in_time.values()) == pytest.approx([0.2, -0.6, 0.0])


def test_the_rewards_of_state_delta_are_whitened_per_agent():
    samples = [make_sample(v, agent="a", name=f"{i}/0") for i, v in enumerate((1.0, 0.0))]
    assert first(StateDelta(beta=0.0).advantages(samples, [None] * 2, alone)) == [1.0, -1.0]


def test_leave_one_out_literal():
    """1, 0 and 0.5 at one decision: minus the mean of the others, 0.25, 0.75 and 0.5."""
    group = [make_sample(r, prompt=4, name=f"{i}/1") for i, r in enumerate((1.0, 0.0, 0.5))]
    elsewhere = make_sample(1.0, prompt=5, name="9/1")
    found = LeaveOneOut(beta=0.0).advantages([*group, elsewhere], [None] * 4, alone)
    assert first(found) == [0.75, -0.75, 0.0, None]
    assert found.metrics == {"credit/without_alternative": 0.25}


@pytest.mark.parametrize("scheme", [RAE(beta=0.1), LeaveOneOut(beta=0.1)])
def test_the_penalty_is_the_same_in_every_scheme(scheme):
    pair = [make_sample(0.5, name="1/0"), make_sample(0.5, name="2/0")]
    kl = torch.tensor([1.0, 2.0, 3.0])
    assert scheme.advantages(pair, [kl, None], alone).advantages[0].tolist() == pytest.approx([-0.6, -0.5, -0.3])


def test_correct_literal():
    """rho0 = 0.1, rho1 = 0.3: (1 - 0.1) / 0.6 = 1.5 and (0 - 0.1) / 0.6 = -1/6; over the errors their mean is true."""
    scheme = Correct({"a": {"miss": 0.1, "false_alarm": 0.3}})
    up, down = (scheme._unbiased(make_sample(r, agent="a")) for r in (1.0, 0.0))
    assert (up, down) == (pytest.approx(1.5), pytest.approx(-1 / 6))
    assert 0.7 * up + 0.3 * down == pytest.approx(1.0), "of a right action"
    assert 0.1 * up + 0.9 * down == pytest.approx(0.0), "of a wrong one"


def test_rates_that_are_the_same_for_all_change_nothing_and_others_do():
    samples = [
        make_sample(r, agent=a, name=f"{i}/0") for i, (a, r) in enumerate([("a", 1), ("a", 0), ("b", 1), ("b", 0)])
    ]
    plain = ReinforcePP(0.0, scope="team").advantages(samples, [None] * 4, alone)
    same = Correct({"all": {"miss": 0.2, "false_alarm": 0.1}}, beta=0.0, scope="team")
    assert first(same.advantages(samples, [None] * 4, alone)) == first(plain)
    apart = Correct({"a": {}, "b": {"miss": 0.25, "false_alarm": 0.25}}, beta=0.0, scope="team")
    a, _, b, _ = (value[0].item() for value in apart.advantages(samples, [None] * 4, alone).advantages)
    assert b == pytest.approx(2 * a), "half of what that judge says is noise"


def test_rates_of_an_audit_go_before_the_others(tmp_path):
    file = tmp_path / "judge.json"
    rates = {"all": {"miss": 0.1, "false_alarm": 0.3, "n": 40}, "b": {"miss": 0.5, "false_alarm": 0.0, "n": 12}}
    file.write_text(json.dumps({"judge": "j", "lines": [{"name": "rates", "mark": "PASS", "numbers": rates}]}))
    scheme = Correct({"all": {}}, audit=str(file))
    found = [scheme._unbiased(make_sample(1.0, agent=seat)) for seat in ("a", "b")]
    assert found == [pytest.approx(1.5), pytest.approx(1.0)]
    for broken in ("", "[]", '{"lines": []}', '{"lines": [{"name": "rates", "numbers": {"a": {"miss": 0}}}]}'):
        file.write_text(broken)
        with pytest.raises(ConfigError, match=r"credit\.audit=.*judge\.json holds no rates.*python -m mappa\.audit"):
            Correct({}, audit=str(file))
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        Correct({}, audit=str(tmp_path / "none.json"))


def test_rates_that_say_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"credit\.rates\.a: miss=0.5 and false_alarm=0.5 must be shares"):
        Correct({"a": {"miss": 0.5, "false_alarm": 0.5}})
    with pytest.raises(ConfigError, match="neither the seat 'solver' nor `all`"):
        Correct({"a": {}}).advantages([make_sample(1.0)], [None], alone)
