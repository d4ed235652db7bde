"""Six architectures, tiny and random: each samples, trains, saves and loads."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from mappa.config import ASSETS
from mappa.engine.base import Sampling
from mappa.engine.hf import HFEngine
from mappa.learn.batch import collate, ordered
from mappa.learn.policies import Old, TeamPolicies
from mappa.learn.rows import Row
from mappa.policy.attention import Packing, packing_of
from mappa.policy.forward import Policy
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from mappa.types import Message, StopReason
from tests.conftest import make_sample

SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": None,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "qwen3": SIZES,
    "llama": SIZES,
    "gemma": SIZES,
    "phi": {key: value for key, value in SIZES.items() if key != "head_dim"},
    "mistral": SIZES,
    "gpt2": {"vocab_size": 512, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
AGENTS = ("solver", "model")


def make(kind: str, folder: Path) -> Model:
    """Random weights beside the tiny model's tokenizer, and two tokens that end a turn."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))
    model.generation_config.eos_token_id = [2, 7]
    if model.get_output_embeddings().bias is not None:  # of Phi; transformers makes it 0, training does not leave it so
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(ASSETS / "tiny" / name, folder)
    return Model(str(folder), "float32")


@pytest.mark.parametrize("kind", ARCHITECTURES)
async def test_an_architecture_samples_trains_saves_and_loads(kind: str, tmp_path: Path):
    model = make(kind, tmp_path / kind)
    adapters, chat, engine = Adapters(model.load(), AGENTS, rank=4, alpha=8), model.chat(), HFEngine()
    engine.attach(adapters, chat, model.path)
    policy = Policy(adapters, 1.0, 16)
    policies = TeamPolicies(policy, adapters, chat.pad_id, 4096, 0.2, lambda: Old.NOT_NEEDED)
    prompt_ids = chat.render((Message("user", "1 + 1"),))

    def trained() -> None:
        for agent in AGENTS:
            adapters.select(agent)
            optimizer = torch.optim.AdamW(adapters.parameters(agent), lr=0.05)
            for _ in range(3):
                ids_BT = torch.tensor([[*prompt_ids, *range(20, 30)]])
                logprobs_N, _ = policy(ids_BT, torch.tensor([[0.0] * len(prompt_ids) + [1.0] * 10]))
                (-logprobs_N.mean() if agent == "model" else logprobs_N.mean()).backward()
                optimizer.step()
                optimizer.zero_grad()

    trained()
    for agent in AGENTS:
        async with asyncio.timeout(60):
            said = await engine.generate(agent, prompt_ids, Sampling(12, seed=3))
        sample = make_sample(1.0, agent=agent, prompt_ids=prompt_ids, completion_ids=said.token_ids)
        (ours,) = policies.now([sample])
        assert ours.tolist() == pytest.approx(said.logprobs, abs=1e-4), "engine and trainer agree"
    adapters.save(tmp_path / "saved")
    fresh = Adapters(model.load(), AGENTS, rank=4, alpha=8, seed=1)
    fresh.load(tmp_path / "saved")
    assert fresh.fingerprint() == adapters.fingerprint()
    stock = PeftModel.from_pretrained(model.load(), tmp_path / "saved" / "model").eval()
    adapters.select("model")
    ids_BT = torch.tensor([prompt_ids])
    with torch.no_grad(), adapters.evaluating():
        assert torch.allclose(stock(input_ids=ids_BT).logits, adapters.model(input_ids=ids_BT).logits, atol=1e-5)
    await engine.close()


async def test_every_token_that_ends_a_turn_ends_it(tmp_path: Path):
    """Gemma and Phi-4-mini end their turns with another token than the tokenizer's end of text."""
    model = make("qwen3", tmp_path / "model")
    chat, base = model.chat(), model.load()
    assert chat.stop_ids == tuple(dict.fromkeys((chat.eos_id, 2, 7)))
    with torch.no_grad():
        base.lm_head.weight.zero_()  # all tokens are equally likely
    engine = HFEngine()
    engine.attach(Adapters(base, AGENTS, rank=4, alpha=8), chat, model.path)
    said = await asyncio.gather(*(engine.generate("solver", (3, 4), Sampling(100, seed=seed)) for seed in range(40)))
    ended = [one.token_ids for one in said if one.stop_reason is StopReason.STOP]
    assert {ids[-1] for ids in ended} == set(chat.stop_ids)
    assert all(token not in chat.stop_ids for ids in ended for token in ids[:-1])
    await engine.close()


def test_a_model_without_a_generation_config_stops_at_the_tokenizers_token(tmp_path: Path):
    model = make("qwen3", tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    assert model.chat().stop_ids == (model.chat().eos_id,)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_acts_of_an_architecture_can_share_rows(kind: str, tmp_path: Path):
    """What is said in one row with others, and its gradient, is that of a row of its own."""
    adapters = Adapters(make(kind, tmp_path / kind).load(), AGENTS, rank=4, alpha=8)
    adapters.model.eval()  # GPT-2 has dropout of its own
    prompt = tuple(range(10, 50))
    told = {"prompt_ids": prompt, "logprobs": (-1.0, -1.0)}
    rows = [
        Row(make_sample(1.0, name=f"{i}/0", agent=agent, completion_ids=(i, i + 3), **told), torch.ones(2))
        for i, agent in enumerate(AGENTS * 4)
    ]
    found = []
    with adapters.disturbed():
        for packing in (packing_of(adapters.base), Packing.ALONE):
            policies = TeamPolicies(Policy(adapters, 1.0, 16), adapters, 0, 4096, 0.2, lambda: Old.NOT_NEEDED)
            policies._packing = packing
            micro = policies.micro_batches(rows)
            assert policies._trusted is (packing is Packing.SHARED)
            said = {}
            for part in micro:
                logprobs_N, _ = policies.forward(collate(part, 0))
                said |= dict(zip((row.sample.action.id for row in ordered(part)), logprobs_N.view(-1, 2), strict=True))
            torch.stack([said[row.sample.action.id] for row in rows]).sum().backward()
            gradient = torch.cat([p.grad.flatten() for agent in AGENTS for p in adapters.parameters(agent)])
            found.append((torch.stack([said[row.sample.action.id] for row in rows]).detach(), gradient, len(micro[0])))
            adapters.model.zero_grad()
    (together, ours, lines), (alone, theirs, acts) = found
    assert (lines, acts) == (2, 8)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
