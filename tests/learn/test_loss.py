"""The loss against literal numbers and an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch

from mappa.learn.loss import LossConfig, kl_penalty, policy_loss


def test_policy_loss_literal():
    # ratios 1.5 and 0.5 with advantages +1 and -1: min(1.5, 1.2) = 1.2 and min(-0.5, -0.8) = -0.8; third masked
    logprobs = torch.tensor([math.log(1.5), math.log(0.5), 9.0])
    zeros = torch.zeros(3)
    advantages, mask = torch.tensor([1.0, -1.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])
    loss, metrics = policy_loss(logprobs, zeros, zeros, advantages, mask, 4.0, LossConfig())
    assert loss.item() == pytest.approx(-(1.2 - 0.8) / 4)
    assert metrics["tokens"].item() == 2
    assert metrics["clip_fraction"].item() == 2
    assert metrics["ratio"].item() == pytest.approx(2.0)


def test_clipping_is_one_sided():
    # ratio 1.5 with a negative advantage and 0.5 with a positive one are not clipped
    logprobs = torch.tensor([math.log(1.5), math.log(0.5)])
    zeros, ones = torch.zeros(2), torch.ones(2)
    loss, metrics = policy_loss(logprobs, zeros, zeros, torch.tensor([-1.0, 1.0]), ones, 2.0, LossConfig())
    assert loss.item() == pytest.approx(-(-1.5 + 0.5) / 2)
    assert metrics["clip_fraction"].item() == 0


def test_gradient_on_policy_is_advantage_times_score():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old, advantages, mask = logprobs.detach(), torch.tensor([0.5, -2.0]), torch.ones(2)
    loss, _ = policy_loss(logprobs, old, old, advantages, mask, 2.0, LossConfig())
    loss.backward()
    assert torch.allclose(logprobs.grad, torch.tensor([-0.25, 1.0]))


def test_truncated_importance_weight_literal():
    # pi_old / pi_engine = 4 and 0.5, cap 2: weights 2 and 0.5
    old = torch.tensor([math.log(0.4), math.log(0.1)])
    engine = torch.tensor([math.log(0.1), math.log(0.2)])
    ones = torch.ones(2)
    loss, metrics = policy_loss(old, old, engine, ones, ones, 2.0, LossConfig(importance_cap=2.0))
    assert loss.item() == pytest.approx(-(2.0 + 0.5) / 2)
    assert metrics["importance_capped"].item() == 1
    off, metrics = policy_loss(old, old, engine, ones, ones, 2.0, LossConfig())
    assert off.item() == pytest.approx(-1.0)
    assert metrics["importance_weight"].item() == pytest.approx(4.5)  # measured also when it is off


def test_kl_penalty_literal():
    logprobs, ref, mask = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0])
    assert kl_penalty(logprobs, ref, mask, 2.0, "k2").item() == pytest.approx(0.5 * 4 / 2)
    assert kl_penalty(logprobs, ref, mask, 2.0, "k3").item() == pytest.approx((math.e**2 - 2 - 1) / 2)
    with pytest.raises(ValueError, match="available: k2, k3"):
        kl_penalty(logprobs, ref, mask, 2.0, "k1")
