"""Log-probabilities in chunks."""

from __future__ import annotations

import pytest
import torch

from mappa.policy.forward import token_logprobs


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunked_logprobs_equal_full_ones(chunk: int):
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5)
    targets = torch.randint(0, 11, (7,))
    logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, chunk)
    full = torch.log_softmax(hidden @ head.T / 0.7, -1)
    assert torch.allclose(logprobs, full[torch.arange(7), targets], atol=1e-6)
    assert torch.allclose(entropy, -(full.exp() * full).sum(-1), atol=1e-5)
    ours = torch.autograd.grad(logprobs.sum(), hidden)[0]
    theirs = torch.autograd.grad(full[torch.arange(7), targets].sum(), hidden)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_chunking_never_holds_all_logits():
    """Largest single tensor the forward and backward allocate: one chunk of logits, not N x V."""
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    biggest = max(biggest, tensor.numel())
            return out

    hidden, head = torch.randn(256, 8, requires_grad=True), torch.randn(5000, 8)
    targets = torch.randint(0, 5000, (256,))
    with Watch():
        logprobs, _ = token_logprobs(hidden, head, targets, 1.0, 16)
        logprobs.sum().backward()
    assert biggest == 16 * 5000
