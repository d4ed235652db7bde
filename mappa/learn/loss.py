"""The loss: pure functions, tensors in -> (value, metrics) out. Nothing logs, reduces over ranks or holds state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

if TYPE_CHECKING:
    from annotated_types import Gt, Lt
    from pydantic import PositiveFloat


@dataclass(frozen=True)
class LossConfig:
    """Coefficients of the policy loss."""

    clip_low: Annotated[float, Gt(0), Lt(1)] = 0.2
    clip_high: PositiveFloat = 0.2
    """Ratio is clipped to [1 - clip_low, 1 + clip_high] (REINFORCE++ uses 0.2 on both sides)."""
    importance_cap: PositiveFloat | None = None
    """C of the truncated importance weight min(pi_old / pi_engine, C); None = not applied, only measured."""


def policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    engine_logprobs_N: Tensor,
    advantages_N: Tensor,
    mask_N: Tensor,
    total_tokens: float,
    config: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy gradient, averaged over tokens (REINFORCE++, arXiv 2501.03262, the PPO-clip objective).

        loss = - (1 / total_tokens) * sum_t m_t c_t min(w_t A_t, clip(w_t, 1 - clip_low, 1 + clip_high) A_t)

    with w_t = exp(logprobs - old_logprobs), mask m_t, and c_t = min(exp(old - engine), importance_cap), the truncated
    importance weight for a mismatch between engine and trainer (c_t = 1 when `importance_cap` is None).

    Departures from the paper:
      1. `total_tokens` counts the agent's loss tokens of the whole optimizer step, over all micro-batches and ranks, so
         that how the step is cut into micro-batches does not matter.
      2. c_t.

    Args:
        *_N: one entry per loss position, float32. Only `logprobs_N` carries gradients.

    Returns:
        scalar loss, and sums over the masked positions (divide by `tokens`) for the metrics.
    """
    log_ratio = logprobs_N - old_logprobs_N
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.minimum(ratio * advantages_N, clipped * advantages_N)
    mismatch = old_logprobs_N - engine_logprobs_N
    weight = mismatch.exp()
    if config.importance_cap is not None:
        surrogate = surrogate * weight.clamp(max=config.importance_cap)
    loss = -(surrogate * mask_N).sum() / total_tokens
    with torch.no_grad():
        is_clipped = (ratio * advantages_N > clipped * advantages_N).float()
        cap = config.importance_cap if config.importance_cap is not None else float("inf")
        metrics = {
            "tokens": mask_N.sum(),
            "ratio": (ratio * mask_N).sum(),
            "clip_fraction": (is_clipped * mask_N).sum(),
            "engine_mismatch": (mismatch.abs() * mask_N).sum(),
            "importance_weight": (weight * mask_N).sum(),
            "importance_capped": ((weight > cap).float() * mask_N).sum(),
        }
    return loss, metrics


def likelihood_loss(logprobs_N: Tensor, weights_N: Tensor, total_weight: float) -> Tensor:
    """Weighted negative log-likelihood, averaged over tokens.

        loss = - (1 / total_weight) * sum_t w_t log pi(y_t),  total_weight = sum_t w_t

    Departure from the code of arXiv 2501.05707 and 2410.08115, which average over a device's batch: the sums are over
    the agent's whole optimizer step, all micro-batches and ranks, so that how it is cut does not matter.
    """
    return -(weights_N * logprobs_N).sum() / total_weight


def preference_loss(
    logprobs_N: Tensor, ref_logprobs_N: Tensor, row_N: Tensor, pairs: float, beta: float, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """DPO (arXiv 2305.18290, eq. 7) with a likelihood term on the chosen action (RPO, arXiv 2404.19733, eq. 2).

        loss = (1 / pairs) sum over pairs (c, r) of - log sigmoid(beta (d_c - d_r)) - alpha log pi(y_c) / |y_c|

    with d = log pi - log pi_ref, summed over an action's tokens.

    Departure: `pairs` counts those of the agent's whole optimizer step, over all micro-batches and ranks.

    Args:
        row_N: on the host, row of each loss position; rows 0, 1 are a pair, then 2, 3, the chosen action first.

    Returns:
        scalar loss, and sums over the pairs for the metrics.
    """
    rows, row_N = int(row_N.max()) + 1, row_N.to(logprobs_N.device)
    zeros = logprobs_N.new_zeros(rows)
    total_P2 = zeros.index_add(0, row_N, logprobs_N).view(-1, 2)
    reference_P2 = zeros.index_add(0, row_N, ref_logprobs_N).view(-1, 2)
    length_P2 = zeros.index_add(0, row_N, torch.ones_like(logprobs_N)).view(-1, 2)
    ahead_P2 = total_P2 - reference_P2
    margin_P = beta * (ahead_P2[:, 0] - ahead_P2[:, 1])
    nll_P = -total_P2[:, 0] / length_P2[:, 0]
    loss = (-torch.nn.functional.logsigmoid(margin_P) + alpha * nll_P).sum() / pairs
    with torch.no_grad():
        metrics = {
            "margin": margin_P.sum(),
            "preferred": (margin_P > 0).float().sum(),
            "nll_chosen": nll_P.sum(),
        }
    return loss, metrics


def kl_penalty(logprobs_N: Tensor, ref_logprobs_N: Tensor, mask_N: Tensor, total_tokens: float, kind: str) -> Tensor:
    """Separate KL term to the reference policy, averaged like `policy_loss`.

    `k2`: 0.5 * (log pi - log pi_ref)^2, as in REINFORCE++ with baseline (arXiv 2501.03262).
    `k3`: pi_ref / pi - log(pi_ref / pi) - 1, as in GRPO (arXiv 2402.03300, eq. 4).
    """
    log_ratio = ref_logprobs_N - logprobs_N
    if kind == "k2":
        values = 0.5 * log_ratio.square()
    elif kind == "k3":
        values = log_ratio.exp() - log_ratio - 1
    else:
        raise ValueError(f"unknown KL estimator '{kind}'; available: k2, k3")
    return (values * mask_N).sum() / total_tokens
