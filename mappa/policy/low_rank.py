"""What adapters add to a layer: rows of several of them in one pass, none of whose tensors is copied for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Added(torch.autograd.Function):
    """`out` + scale * B A x (arXiv 2106.09685) of each row with its own A and B.

    Autograd alone would copy inputs, outputs and their gradients, to cut them apart and to put them together again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, counts: Sequence[int], scale: float, *pairs: Tensor | None) -> Tensor:
        """
        Args:
            x, out: rows x ... x features; of the weights' dtype.
            counts: rows of each pair.
            pairs: A of each, then B of each; None = nothing is added to its rows.
        """
        both, lows = torch.empty_like(out, memory_format=torch.contiguous_format), []
        parts = zip(x.split(counts), out.split(counts), both.split(counts), *_halves(pairs), strict=True)
        for x_i, out_i, both_i, inner, outer in parts:
            if inner is None:
                both_i.copy_(out_i)
                lows.append(None)
            else:
                lows.append(x_i.flatten(0, -2) @ inner.t())
                torch.addmm(out_i.flatten(0, -2), lows[-1], outer.t(), alpha=scale, out=both_i.flatten(0, -2))
        ctx.save_for_backward(x, *lows, *pairs)
        ctx.counts, ctx.scale = counts, scale
        return both

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, out and the pairs."""
        x, *rest = ctx.saved_tensors
        lows, pairs = rest[: len(ctx.counts)], rest[len(ctx.counts) :]
        of_x = torch.empty_like(x, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        into = [None] * len(ctx.counts) if of_x is None else of_x.split(ctx.counts)
        of_inner: list[Tensor | None] = []
        of_outer: list[Tensor | None] = []
        parts = zip(x.split(ctx.counts), grad.split(ctx.counts), into, lows, *_halves(pairs), strict=True)
        for x_i, grad_i, of_x_i, low, inner, outer in parts:
            if inner is None:
                of_inner.append(None)
                of_outer.append(None)
                if of_x_i is not None:
                    of_x_i.zero_()
                continue
            flat = grad_i.flatten(0, -2)
            of_low = (flat @ outer) * ctx.scale
            of_inner.append(of_low.t() @ x_i.flatten(0, -2))
            of_outer.append((flat.t() @ low) * ctx.scale)
            if of_x_i is not None:
                torch.mm(of_low, inner, out=of_x_i.flatten(0, -2))
        return of_x, grad, None, None, *of_inner, *of_outer


def _halves(pairs: Sequence[Tensor | None]) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    return pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
