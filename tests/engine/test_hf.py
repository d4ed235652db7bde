"""The hf engine: exact log-probabilities, reproducible batches, seeds that belong to the request."""

from __future__ import annotations

import asyncio
import time
from itertools import chain

import pytest
import torch

from mappa.config import ASSETS
from mappa.engine.base import Completion, Sampling
from mappa.engine.hf import HFEngine
from mappa.errors import EngineError
from mappa.policy.forward import Policy
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from mappa.types import Message, StopReason

MODEL = Model(str(ASSETS / "tiny"), "float32")


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    made = Adapters(MODEL.load(), ("solver", "verifier"), rank=4, alpha=64)
    torch.manual_seed(0)
    with torch.no_grad():
        for agent in made.agents:
            for parameter in made.parameters(agent):
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return made


def prompts(count: int) -> list[tuple[int, ...]]:
    chat = MODEL.chat()
    system = Message("system", "Draft the expression.")
    return [chat.render([system, Message("user", f"Compute {'1' * (i + 1)} + 2*3.")]) for i in range(count)]


async def generate(adapters: Adapters, requests: list[tuple[str, tuple[int, ...], Sampling]], **kw) -> list[Completion]:
    engine = HFEngine(**kw)
    engine.attach(adapters, MODEL.chat(), MODEL.path)
    await engine.sync(5)

    async def one(request):
        async with engine.lane():
            return await engine.generate(*request)

    try:
        return await asyncio.gather(*(one(request) for request in requests))
    finally:
        await engine.close()


async def test_the_base_speaks_as_if_there_were_no_adapters(adapters: Adapters):
    """A frozen seat beside seats that learn: equal prompts and seeds give equal words, whatever others learned."""
    wanted = [("base", prompt, Sampling(16, seed=i)) for i, prompt in enumerate(prompts(3))]
    others = [(agent, prompt, Sampling(16, seed=i)) for agent in adapters.agents for i, prompt in enumerate(prompts(3))]
    alone = Adapters(MODEL.load(), ("solver",), rank=4)  # as created: no adapter changes anything yet
    reference = await generate(alone, [("solver", prompt, sampling) for _, prompt, sampling in wanted])
    found = await generate(adapters, [*wanted, *others])
    assert [c.token_ids for c in found[:3]] == [c.token_ids for c in reference]
    assert [c.token_ids for c in found[3:6]] != [c.token_ids for c in reference], "or this could not fail"


async def test_greedy_decoding_takes_the_likeliest_token_whatever_the_seed(adapters: Adapters):
    """Beside sampled rows of the same batch; log-probabilities are those at temperature 1."""
    greedy = [("solver", prompts(5)[i], Sampling(24, temperature=0.0, top_p=0.9, seed=i)) for i in range(5)]
    again = [(agent, prompt, Sampling(24, temperature=0.0, seed=100)) for agent, prompt, _ in greedy]
    sampled = [(agent, prompt, Sampling(24, seed=7)) for agent, prompt, _ in greedy]
    found = (await generate(adapters, [*greedy, *sampled]))[:5]
    assert [done.token_ids for done in found] == [done.token_ids for done in await generate(adapters, again)]
    adapters.select("solver")
    for (_, prompt, _), done in zip(greedy, found, strict=True):
        with torch.no_grad(), adapters.evaluating():
            logits = adapters.model(input_ids=torch.tensor([[*prompt, *done.token_ids]])).logits[
                0, len(prompt) - 1 : -1
            ]
        assert tuple(logits.argmax(-1).tolist()) == done.token_ids
        expected = torch.log_softmax(logits, -1).max(-1).values
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_logprobs_are_the_trainers(adapters: Adapters, temperature: float):
    """Measured: at most 3e-6 apart in float32, with mixed prompt lengths and two adapters."""
    requests = [
        (agent, prompt, Sampling(24, temperature=temperature, seed=i))
        for i, prompt in enumerate(prompts(5))
        for agent in adapters.agents
    ]
    policy = Policy(adapters, temperature, 64)
    for (agent, prompt, _), done in zip(requests, await generate(adapters, requests), strict=True):
        adapters.select(agent)
        ids = torch.tensor([[*prompt, *done.token_ids]])
        mask = torch.zeros_like(ids)
        mask[:, len(prompt) :] = 1
        with torch.no_grad(), adapters.evaluating():
            logprobs, _ = policy(ids, mask)
        assert torch.allclose(logprobs, torch.tensor(done.logprobs), atol=1e-4)
        assert done.version == 5


async def test_a_completion_depends_on_its_own_seed_not_on_its_neighbours(adapters: Adapters):
    requests = [("solver", prompt, Sampling(24, seed=i)) for i, prompt in enumerate(prompts(6))]
    together = await generate(adapters, requests)
    alone = [(await generate(adapters, [request]))[0] for request in requests]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    other = await generate(adapters, [("solver", prompts(1)[0], Sampling(24, seed=s)) for s in range(12)])
    assert len({c.token_ids for c in other}) > 1


async def test_batches_do_not_depend_on_the_order_of_arrival(adapters: Adapters):
    requests = [(agent, p, Sampling(24, seed=i)) for i, p in enumerate(prompts(6)) for agent in adapters.agents]
    forward = await generate(adapters, requests, max_batch=4)
    backward = await generate(adapters, requests[::-1], max_batch=4)
    assert forward == backward[::-1]  # bit for bit, log-probabilities included


async def test_stop_reasons(adapters: Adapters):
    requests = [("solver", prompts(1)[0], Sampling(n, seed=1)) for n in (2, 60)]
    short, long = await generate(adapters, requests)
    assert short.stop_reason is StopReason.LENGTH
    assert len(short.token_ids) == 2
    assert long.stop_reason is StopReason.STOP
    assert long.token_ids[-1] == MODEL.chat().eos_id
    assert long.token_ids[:2] == short.token_ids


async def test_no_room_for_the_completion_is_an_error_of_that_request(adapters: Adapters):
    with pytest.raises(EngineError, match=r"prompt of \d+ tokens \+ completion budget 40 exceeds the context of 50"):
        await generate(adapters, [("solver", prompts(3)[2], Sampling(40))], context_length=50)


async def test_top_p_keeps_to_the_nucleus(adapters: Adapters):
    nearly_greedy = [("solver", prompts(1)[0], Sampling(24, top_p=1e-6, seed=s)) for s in range(4)]
    assert len({c.token_ids for c in await generate(adapters, nearly_greedy)}) == 1


async def test_sampling_follows_the_distribution(adapters: Adapters):
    """Frequencies of the first token over 2,000 seeds against its probabilities (5 standard errors)."""
    prompt = prompts(1)[0]
    done = await generate(adapters, [("solver", prompt, Sampling(1, temperature=2.0, seed=s)) for s in range(2000)])
    adapters.select("solver")
    with torch.no_grad(), adapters.evaluating():
        probs = torch.softmax(adapters.model(input_ids=torch.tensor([prompt])).logits[0, -1] / 2.0, -1)
    top = int(probs.argmax())
    share = sum(c.token_ids[0] == top for c in done) / 2000
    p = float(probs[top])
    assert abs(share - p) < 5 * (p * (1 - p) / 2000) ** 0.5


async def test_a_batch_is_bounded_by_the_tokens_of_its_prompts():
    """Prefilling holds a mask of rows x tokens x tokens."""
    seen: list[list[int]] = []

    class Seen(HFEngine):
        def _generate(self, batch):
            seen.append([len(request.prompt_ids) for request in batch])
            return super()._generate(batch)

    engine = Seen(max_batch_tokens=40)
    chat = MODEL.chat()
    engine.attach(Adapters(MODEL.load(), ("solver",), rank=4, alpha=8), chat, MODEL.path)
    lengths = [10, 10, 10, 10, 10, 12, 12, 50]

    async def ask(length: int, seed: int) -> None:
        async with engine.lane():
            await engine.generate("solver", tuple(range(3, 3 + length)), Sampling(2, seed=seed))

    await asyncio.gather(*(ask(length, seed) for seed, length in enumerate(lengths)))
    assert seen == [[10, 10, 10, 10], [10, 12, 12], [50]]
    await engine.close()


async def test_a_few_long_prompts_share_a_batch_where_padding_is_cheap(adapters: Adapters):
    """One that is three times as long costs less than each of its passes alone; sixty that wait for it do not."""
    seen: list[list[int]] = []

    class Seen(HFEngine):
        def _generate(self, batch):
            seen.append([len(request.prompt_ids) for request in batch])
            return super()._generate(batch)

    engine = Seen()
    engine.attach(adapters, MODEL.chat(), MODEL.path)

    async def ask(length: int, seed: int) -> None:
        async with engine.lane():
            await engine.generate("solver", tuple(range(3, 3 + length)), Sampling(1, seed=seed))

    for short in (10, 60):
        await engine.sleep()
        await asyncio.gather(*(ask(length, seed) for seed, length in enumerate([*[20] * short, 60])))
    assert seen == [[*[20] * 10, 60], [20] * 60, [60]]
    await engine.close()


async def test_a_turn_goes_on_from_what_was_computed_for_the_one_before(adapters: Adapters):
    """Two agents' acts of three turns in one group: the same words with what is kept and without, at less cost."""

    async def play(keep: bool, changed: bool = False) -> tuple[list[list[Completion]], int]:
        engine = HFEngine()
        engine.attach(adapters, MODEL.chat(), MODEL.path)
        await engine.sync(0)

        async def act(agent: str, prompt_ids: tuple[int, ...], seed: int) -> list[Completion]:
            said: list[Completion] = []
            async with engine.lane():
                for turn in range(3):
                    if not keep:
                        await engine.sleep()
                    if changed and turn == 2:
                        await engine.sync(1)  # whatever was kept is of other weights
                    said.append(await engine.generate(agent, prompt_ids, Sampling(12 + seed, seed=10 * seed + turn)))
                    prompt_ids = (*prompt_ids, *said[-1].token_ids, *range(7, 9 + seed + turn))
            return said

        acts = [act(agent, prompt, seed) for seed, prompt in enumerate(prompts(4)) for agent in adapters.agents]
        try:
            return await asyncio.gather(*acts), engine.computed
        finally:
            await engine.close()

    (plain, all_of_it), (kept, less), (synced, between) = await play(False), await play(True), await play(True, True)
    assert less < between < all_of_it
    for one, *others in zip(*(chain(*acts) for acts in (plain, kept, synced)), strict=True):
        for other in others:
            assert other.token_ids == one.token_ids
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)


async def test_samples_of_one_prompt_have_it_computed_once(adapters: Adapters):
    """Eight a prompt and agent: the words are those that each says by itself, whatever leaves the batch first."""
    asked = [(agent, prompt) for prompt in prompts(3) for agent in (*adapters.agents, "base")]
    requests = [(*one, Sampling(6 + seed, seed=seed)) for seed in range(8) for one in asked]
    alone = [(await generate(adapters, [request]))[0] for request in requests]
    engine = HFEngine()
    engine.attach(adapters, MODEL.chat(), MODEL.path)

    async def ask(request) -> Completion:
        async with engine.lane():
            return await engine.generate(*request)

    together = await asyncio.gather(*map(ask, requests))
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    once, decoded = len(asked) * max(len(prompt) for _, prompt in asked), 13 * len(requests)
    assert engine.computed <= once + decoded < 8 * sum(len(prompt) for _, prompt in asked)
    await engine.close()


async def test_an_engine_tells_how_long_it_had_nothing_to_do(adapters: Adapters):
    """One of two lanes keeps the other waiting: nobody's tokens are computed meanwhile."""
    engine = HFEngine()
    engine.attach(adapters, MODEL.chat(), MODEL.path)

    async def ask(before_s: float) -> None:
        async with engine.lane():
            await asyncio.sleep(before_s)
            await engine.generate("solver", prompts(1)[0], Sampling(4, seed=1))

    engine.idle.begin()
    assert engine.idle.end() is None, "it has not said yet that it works"
    began = time.monotonic()
    await asyncio.gather(ask(0.0), ask(0.5))
    idle = engine.idle.end()
    assert 0.5 <= idle < time.monotonic() - began
    await engine.close()


async def test_of_as_many_tokens_is_kept_as_a_batch_may_have(adapters: Adapters):
    async def computed(most: int) -> int:
        engine = HFEngine(max_batch_tokens=most)
        engine.attach(adapters, MODEL.chat(), MODEL.path)
        async with engine.lane():
            prompt_ids = prompts(1)[0]
            said = await engine.generate("solver", prompt_ids, Sampling(1, seed=0))
            before = engine.computed
            await engine.generate("solver", (*prompt_ids, *said.token_ids, 7), Sampling(1, seed=0))
        await engine.close()
        return engine.computed - before

    length = len(prompts(1)[0])
    assert await computed(length) == 2  # what was said last, and what is new
    assert await computed(length - 1) == length + 2


async def test_groups_do_not_wait_for_each_other_and_agents_share_batches(adapters: Adapters):
    """One group's episodes are busy with their kernels; the other's are answered, both agents' in one batch."""
    seen: list[list[str]] = []

    class Seen(HFEngine):
        def _generate(self, batch):
            seen.append([request.agent for request in batch])
            return super()._generate(batch)

    engine = Seen()
    engine.attach(adapters, MODEL.chat(), MODEL.path)

    async def ask(agent: str, group: int, before_s: float) -> Completion:
        async with engine.lane(group):
            await asyncio.sleep(before_s)
            return await engine.generate(agent, prompts(1)[0], Sampling(4, seed=1))

    slow = asyncio.create_task(ask("solver", 1, 3600.0))
    async with asyncio.timeout(60):
        await asyncio.gather(ask("solver", 0, 0.0), ask("verifier", 0, 0.1), ask("solver", 0, 0.2))
    assert seen == [["solver", "solver", "verifier"]]
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await engine.close()
