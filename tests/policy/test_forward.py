"""Log-probabilities in chunks."""

from __future__ import annotations

import pytest
import torch

from mappa.config import ASSETS
from mappa.engine.base import Sampling
from mappa.engine.hf import HFEngine
from mappa.learn.policies import Old, TeamPolicies
from mappa.policy.forward import Policy, token_logprobs
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from tests.conftest import make_sample


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunked_logprobs_equal_full_ones(chunk: int):
    torch.manual_seed(0)
    hidden, head = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5)
    targets = torch.randint(0, 11, (7,))
    logprobs, entropy = token_logprobs(hidden, lambda part: part @ head.T, targets, 0.7, chunk)
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
        logprobs, _ = token_logprobs(hidden, lambda part: part @ head.T, targets, 1.0, 16)
        logprobs.sum().backward()
    assert biggest == 16 * 5000


@pytest.mark.parametrize("autocast", [False, True])
async def test_a_head_in_float32_speaks_for_update_and_engine(autocast: bool):
    """Measured: of what a tiny team said, logits rounded to bfloat16 are 0.0005 nats a token away, at most 0.03."""
    ids_BT = torch.randint(3, 300, (4, 40), generator=torch.Generator().manual_seed(0))
    found: dict[bool, torch.Tensor] = {}
    for float32 in (False, True):
        model = Model(str(ASSETS / "tiny"), "bfloat16", float32_head=float32)
        adapters, chat = Adapters(model.load(), ("solver",), rank=4, alpha=8), model.chat()
        adapters.precision = lambda: torch.autocast("cpu", torch.bfloat16, enabled=autocast)
        policies = TeamPolicies(Policy(adapters, 1.0, 16), adapters, 0, 4096, 0.2, lambda: Old.NOT_NEEDED)
        with torch.no_grad(), adapters.precision(), adapters.evaluating():
            found[float32], _ = policies._policy(ids_BT, torch.ones(4, 40))
            hidden_BTH = adapters.base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        exact = hidden_BTH[:, :-1].float() @ adapters.base.get_output_embeddings().weight.float().T
        exact_N = torch.log_softmax(exact, -1).gather(-1, ids_BT[:, 1:, None]).flatten()
        engine = HFEngine()
        engine.attach(adapters, chat, model.path)
        said = await engine.generate("solver", tuple(ids_BT[0].tolist()), Sampling(12, seed=3))
        await engine.close()
        sample = make_sample(1.0, prompt_ids=tuple(ids_BT[0].tolist()), completion_ids=said.token_ids)
        (ours,) = policies.now([sample])
        torch.testing.assert_close(ours, torch.tensor(said.logprobs), atol=0.05, rtol=0)
        assert bool((found[float32] - exact_N).abs().max() < 1e-5) is float32
