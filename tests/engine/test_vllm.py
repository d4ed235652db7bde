"""The vllm engine for real, also on a CPU: agreement with the trainer, adapters, updates, sleep, closing."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mappa.config import check, compose
from mappa.engine.base import Completion, Sampling
from mappa.engine.vllm import VLLMEngine
from mappa.errors import ConfigError, EngineError
from mappa.play.loop import EventLoop
from mappa.policy.lora import Adapters
from mappa.types import BASE, StopReason

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (.ci/install-vllm VENV)"
)
AGENTS = ("solver", "executor", "verifier")
EOS = 2
VOCABULARY = 64
CHAT = SimpleNamespace(stop_ids=(EOS,))
PROMPT = tuple(3 + (7 * i) % 60 for i in range(300))
"""Longer than two KV-cache blocks (128 tokens on a CPU), so that the prefix cache has something to serve."""


def save_model(folder: Path) -> str:
    """A random Qwen3 whose next-token distributions are far from uniform."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=EOS,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def make_adapters(path: str, dtype: torch.dtype) -> Adapters:
    from transformers import AutoModelForCausalLM

    adapters = Adapters(AutoModelForCausalLM.from_pretrained(path, dtype=dtype), AGENTS, rank=4, alpha=8)
    perturb(adapters, seed=1)
    return adapters


def perturb(adapters: Adapters, seed: int) -> None:
    """Stand-in for an update: every adapter gets weights of its own that matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for agent in AGENTS:
            for parameter in adapters.parameters(agent):
                parameter.copy_(torch.randn_like(parameter) * 0.15)


@torch.no_grad()
def trainer_logprobs(
    adapters: Adapters, agent: str, prompt: Sequence[int], completion: Completion, temperature: float
) -> torch.Tensor:
    """Log-probabilities of the completion's tokens by the trainer's own model; shape (tokens,)."""
    adapters.select(agent)
    with adapters.evaluating():
        logits = adapters.model(input_ids=torch.tensor([[*prompt, *completion.token_ids]])).logits[
            0, len(prompt) - 1 : -1
        ]
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(completion.token_ids).unsqueeze(1)).squeeze(1)


def gap(adapters: Adapters, agent: str, prompt: Sequence[int], completion: Completion, temperature: float) -> float:
    """Largest difference between engine and trainer, in nats."""
    trainer = trainer_logprobs(adapters, agent, prompt, completion, temperature)
    return (trainer - torch.tensor(completion.logprobs)).abs().max().item()


def together(
    loop: EventLoop, engine: VLLMEngine, requests: Sequence[tuple[str, Sequence[int], Sampling]]
) -> list[Completion]:
    async def gather() -> list[Completion]:
        return await asyncio.gather(*(engine.generate(*request) for request in requests))

    return loop.run(gather())


def family(pid: int) -> set[int]:
    """Ids of the living processes below `pid`, Python's own resource tracker excepted."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, tail = stat.read_text().rpartition(")")
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if tail.split()[0] != "Z":
            parents[int(stat.parent.name)] = int(tail.split()[1])
            names[int(stat.parent.name)] = command
    found, grown = {pid}, True
    while grown:
        new = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | new, bool(new)
    return {child for child in found - {pid} if "resource_tracker" not in names.get(child, "")}


@pytest.fixture(scope="module")
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def served(path: str, loop: EventLoop) -> Iterator[tuple[VLLMEngine, Adapters]]:
    adapters = make_adapters(path, torch.float32)
    engine = VLLMEngine(kv_cache_gib=0.1, max_num_seqs=32)
    try:
        engine.attach(adapters, CHAT, path)
        loop.run(engine.sync(1))
        loop.run(engine.wake())
        yield engine, adapters
    finally:
        loop.run(engine.close())


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_float32_logprobs_agree_and_three_adapters_in_one_batch_do_not_mix(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop, temperature: float, record_property: pytest.RecordProperty
) -> None:
    engine, adapters = served
    requests = [
        (AGENTS[i % 3], PROMPT[: 5 + 11 * i], Sampling(max_tokens=48, temperature=temperature, seed=i))
        for i in range(24)
    ]
    completions = together(loop, engine, requests)
    own = [gap(adapters, r[0], r[1], c, temperature) for r, c in zip(requests, completions, strict=True)]
    record_property("largest_gap_nats", max(own))
    tokens = sum(len(completion.token_ids) for completion in completions)
    print(f"float32, T={temperature}: largest gap {max(own):.2e} nats over {tokens} tokens")
    assert max(own) < 1e-3
    for (agent, prompt, _), completion in zip(requests, completions, strict=True):
        for other in set(AGENTS) - {agent}:
            assert gap(adapters, other, prompt, completion, temperature) > 0.1


@needs_vllm
@pytest.mark.vllm
def test_the_frozen_base_speaks_in_one_batch_with_the_adapters(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop
) -> None:
    """A seat with `adapter: base`, in the engine that serves the others' adapters."""
    engine, adapters = served
    requests = [((BASE, *AGENTS)[i % 4], PROMPT[: 5 + 11 * i], Sampling(max_tokens=32, seed=i)) for i in range(12)]
    completions = together(loop, engine, requests)
    for (agent, prompt, _), completion in zip(requests, completions, strict=True):
        if agent == BASE:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            with torch.no_grad(), adapters.disabled(), adapters.evaluating():
                logits = adapters.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            ours = logprobs.gather(1, torch.tensor(completion.token_ids).unsqueeze(1)).squeeze(1)
            assert (ours - torch.tensor(completion.logprobs)).abs().max() < 1e-3
            assert gap(adapters, "solver", prompt, completion, 1.0) > 0.1


@needs_vllm
@pytest.mark.vllm
def test_a_completion_is_a_function_of_adapter_prompt_and_seed(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop
) -> None:
    engine, _ = served
    sampling = Sampling(max_tokens=24, seed=2**62 + 5)
    [alone] = together(loop, engine, [("solver", PROMPT[:20], sampling)])
    crowd = [(AGENTS[i % 3], PROMPT[i : i + 30], Sampling(max_tokens=24, seed=i)) for i in range(20)]
    assert together(loop, engine, [*crowd, ("solver", PROMPT[:20], sampling)])[-1].token_ids == alone.token_ids
    [other] = together(loop, engine, [("solver", PROMPT[:20], Sampling(max_tokens=24, seed=6))])
    assert other.token_ids != alone.token_ids


@needs_vllm
@pytest.mark.vllm
def test_greedy_decoding_takes_the_likeliest_token_with_log_probabilities_at_temperature_one(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop
) -> None:
    engine, adapters = served
    requests = [
        (AGENTS[i % 3], PROMPT[: 5 + 11 * i], Sampling(max_tokens=32, temperature=0.0, seed=i)) for i in range(6)
    ]
    for (agent, prompt, _), completion in zip(requests, together(loop, engine, requests), strict=True):
        assert gap(adapters, agent, prompt, completion, 1.0) < 1e-3
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad(), adapters.evaluating():
            likeliest = adapters.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert likeliest.tolist() == list(completion.token_ids)


@needs_vllm
@pytest.mark.vllm
def test_a_turn_ends_with_the_end_token_or_at_the_budget(served: tuple[VLLMEngine, Adapters], loop: EventLoop) -> None:
    engine, _ = served
    completions = together(
        loop,
        engine,
        [("solver", PROMPT[: 10 + i], Sampling(max_tokens=40, temperature=2.0, seed=i)) for i in range(40)],
    )
    assert {c.stop_reason for c in completions} == {StopReason.STOP, StopReason.LENGTH}
    for completion in completions:
        stopped = completion.stop_reason is StopReason.STOP
        assert (completion.token_ids[-1] == EOS) is stopped
        assert EOS not in completion.token_ids[:-1]
        assert stopped or len(completion.token_ids) == 40
        assert len(completion.logprobs) == len(completion.token_ids)


@needs_vllm
@pytest.mark.vllm
def test_an_update_changes_what_is_sampled_and_nothing_stale_is_used(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same long prompt before and after; its prefix is in the cache, which must not be hit across an update."""
    engine, adapters = served
    cached: list[int] = []
    real = engine._llm.generate

    async def watched(*args: object, **kwargs: object):
        async for output in real(*args, **kwargs):
            cached.append(output.num_cached_tokens)
            yield output

    monkeypatch.setattr(engine._llm, "generate", watched)
    requests = [(agent, PROMPT[::-1], Sampling(max_tokens=24, seed=3)) for agent in AGENTS]
    before = together(loop, engine, requests)
    again = together(loop, engine, requests)
    assert [c.token_ids for c in again] == [c.token_ids for c in before]
    assert cached == [0, 0, 0, 256, 256, 256], "the prefix cache serves the second round"

    for version, seed in ((2, 10), (3, 11), (3, 12)):  # also weights that change under the same version
        perturb(adapters, seed)
        loop.run(engine.sync(version))
        cached.clear()
        after = together(loop, engine, requests)
        assert cached == [0, 0, 0]
        for (agent, prompt, sampling), old, new in zip(requests, before, after, strict=True):
            assert new.version == version
            assert new.token_ids != old.token_ids
            assert gap(adapters, agent, prompt, new, sampling.temperature) < 1e-3
        before = after
    assert len(loop.run(engine._llm.list_loras())) == len(AGENTS) + 1, "old adapters are gone from the engine"
    assert len(list(Path(engine._folder.name).iterdir())) == 1, "and from the disk"


@needs_vllm
@pytest.mark.vllm
def test_sleep_and_wake_keep_base_and_adapters(served: tuple[VLLMEngine, Adapters], loop: EventLoop) -> None:
    engine, adapters = served
    requests = [(agent, PROMPT[:50], Sampling(max_tokens=24, seed=4)) for agent in AGENTS]
    before = together(loop, engine, requests)
    loop.run(engine.sleep())
    loop.run(engine.sleep())
    loop.run(engine.wake())
    assert together(loop, engine, requests) == before
    loop.run(engine.sleep())
    perturb(adapters, 20)
    loop.run(engine.sync(9))
    after = together(loop, engine, requests)  # a request wakes it, too
    assert {c.version for c in after} == {9}
    assert all(gap(adapters, r[0], r[1], c, 1.0) < 1e-3 for r, c in zip(requests, after, strict=True))


@needs_vllm
@pytest.mark.vllm
def test_unusable_requests_are_engine_errors(served: tuple[VLLMEngine, Adapters], loop: EventLoop) -> None:
    engine, _ = served
    with pytest.raises(EngineError, match="exceeds the context of 512 tokens"):
        loop.run(engine.generate("solver", PROMPT, Sampling(max_tokens=400)))
    with pytest.raises(EngineError, match="agent 'critic' has no adapter"):
        loop.run(engine.generate("critic", PROMPT, Sampling(max_tokens=4)))
    for prompt in ((VOCABULARY,), (-1,), ()):
        with pytest.raises(EngineError, match="token ids below 64"):
            loop.run(engine.generate("solver", prompt, Sampling(max_tokens=4)))
    assert together(loop, engine, [("solver", PROMPT, Sampling(max_tokens=4))])[0].token_ids


@needs_vllm
@pytest.mark.vllm
def test_logprobs_are_those_before_the_top_p_cut(served: tuple[VLLMEngine, Adapters], loop: EventLoop) -> None:
    engine, adapters = served
    requests = [
        (AGENTS[i % 3], PROMPT[: 20 + i], Sampling(32, 0.8, top_p=0.5 if i % 2 else 1.0, seed=i)) for i in range(12)
    ]
    completions = together(loop, engine, requests)
    assert all(gap(adapters, r[0], r[1], c, 0.8) < 1e-3 for r, c in zip(requests, completions, strict=True))
    cut = [min(c.logprobs) for r, c in zip(requests, completions, strict=True) if r[2].top_p < 1]
    free = [min(c.logprobs) for r, c in zip(requests, completions, strict=True) if r[2].top_p == 1]
    assert min(cut) > min(free)


@needs_vllm
@pytest.mark.vllm
def test_more_prompt_tokens_than_one_step_takes(served: tuple[VLLMEngine, Adapters], loop: EventLoop) -> None:
    """Prefilling a seeded request in parts would kill vLLM 0.32 on a CPU."""
    engine, adapters = served
    requests = [(AGENTS[i % 3], PROMPT[i:] + PROMPT[:i], Sampling(8, seed=i)) for i in range(30)]  # 9000 tokens
    completions = together(loop, engine, requests)
    assert all(gap(adapters, r[0], r[1], c, 1.0) < 1e-3 for r, c in zip(requests, completions, strict=True))


@needs_vllm
@pytest.mark.vllm
def test_a_crashed_engine_is_one_clear_error_and_leaves_no_process(
    served: tuple[VLLMEngine, Adapters], loop: EventLoop
) -> None:
    """The last test that uses `served`: it is not usable afterwards."""
    engine, _ = served
    started = {process.pid for process in engine._processes}
    assert len(started) >= 2
    engine._processes[0].kill()
    with pytest.raises(EngineError, match="vllm"):
        loop.run(engine.generate("solver", PROMPT[:9], Sampling(max_tokens=200)))
    with pytest.raises(EngineError, match="vllm has died"):
        loop.run(engine.wake())
    loop.run(engine.close())
    assert not [pid for pid in started if alive(pid)]


@needs_vllm
@pytest.mark.vllm
def test_bfloat16_agrees_within_its_bound_and_closing_leaves_no_process(
    path: str, loop: EventLoop, record_property: pytest.RecordProperty
) -> None:
    adapters = make_adapters(path, torch.bfloat16)
    engine = VLLMEngine(kv_cache_gib=0.1, max_num_seqs=32)
    before = family(os.getpid())
    try:
        engine.attach(adapters, CHAT, path)
        loop.run(engine.sync(1))
        requests = [(AGENTS[i % 3], PROMPT[: 5 + 11 * i], Sampling(48, 1.0, seed=i)) for i in range(24)]
        completions = together(loop, engine, requests)
        started = family(os.getpid()) - before
        assert started, "vllm runs in processes of its own"
        folder = Path(engine._folder.name)
    finally:
        loop.run(engine.close())
    loop.run(engine.close())
    gaps = torch.cat(
        [
            (trainer_logprobs(adapters, r[0], r[1], c, 1.0) - torch.tensor(c.logprobs)).abs()
            for r, c in zip(requests, completions, strict=True)
        ]
    )
    record_property("largest_gap_nats", gaps.max().item())
    print(f"bfloat16: largest gap {gaps.max():.3f}, mean {gaps.mean():.4f} nats over {len(gaps)} tokens")
    assert gaps.max() < 1.0
    assert gaps.mean() < 0.05
    assert not family(os.getpid()) & started
    assert not folder.exists()


@needs_vllm
@pytest.mark.vllm
def test_a_killed_run_leaves_no_process(path: str, tmp_path: Path) -> None:
    script = tmp_path / "killed_run.py"
    script.write_text(
        "import os, sys\n"
        "def main():\n"
        f"    sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "    import test_vllm as t, torch\n"
        "    loop, engine = t.EventLoop(), t.VLLMEngine(kv_cache_gib=0.1)\n"
        f"    engine.attach(t.make_adapters({path!r}, torch.float32), t.CHAT, {path!r})\n"
        "    loop.run(engine.sync(1))\n"
        "    loop.run(engine.wake())\n"
        "    print(*t.family(os.getpid()), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    output = tmp_path / "children"
    with output.open("w") as stdout:
        ran = subprocess.run([sys.executable, str(script)], stdout=stdout, timeout=300, check=False)
    assert ran.returncode == -signal.SIGKILL
    children = {int(pid) for pid in output.read_text().splitlines()[-1].split()}
    assert children
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in children if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_missing_vllm_and_bad_settings_are_one_clear_line(
    path: str, loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"engine\.sleep_level=2 must be 0 or 1"):
        check(compose(["+experiment=quickstart", "engine=vllm", "engine.sleep_level=2", "paths.run=."]))
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", None)
    engine = VLLMEngine()
    engine.attach(make_adapters(path, torch.float32), CHAT, path)
    with pytest.raises(EngineError, match="no adapters yet"):
        loop.run(engine.wake())
    try:
        loop.run(engine.sync(0))
        with pytest.raises(EngineError, match=r"needs vllm .*pip install"):
            loop.run(engine.generate("solver", (5,), Sampling(max_tokens=4)))
    finally:
        loop.run(engine.close())
