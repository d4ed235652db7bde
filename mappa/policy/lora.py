"""One LoRA adapter per agent on one frozen base model, by PEFT: create, select, save, load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch.nn import Module

from mappa.checkpoint import check_adapters
from mappa.errors import CheckpointError, ConfigError
from mappa.policy.low_rank import Added
from mappa.ranks import full, sharded_like
from mappa.seed import stable_seed
from mappa.types import BASE

if TYPE_CHECKING:
    from annotated_types import Ge, Lt
    from pydantic import PositiveInt
    from torch import Tensor
    from transformers import PreTrainedModel

Speakers = Sequence[tuple[str, int | None]]
"""Agent (or `BASE`) and its number of rows, in the order of the rows; None = all of them."""
Voice = tuple[Module, Module, Module]
"""One adapter in one layer: dropout, A and B."""
DISTURBANCE = 0.3
"""What a disturbed adapter adds to a layer, relative to the layer's input."""


class Adapters:
    """All adapters of a team, resident on one frozen base.

    PEFT makes the layers and their weights, but its own forward pass lets one adapter act at a time, and switches
    `requires_grad` with it. So a forward pass of ours stands in its place, which adds to what the base layer says of
    each row what the row's own adapter says: one pass of the base serves rows of all agents. Only adapters that act are
    in the graph, so only they get gradients; all are always trainable.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        agents: Sequence[str],
        rank: PositiveInt = 16,
        alpha: PositiveInt = 32,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        targets: str | Sequence[str] = "all-linear",
        seed: int = 0,
    ) -> None:
        self.agents = tuple(agents)
        self.rank, self.alpha, self._drops = rank, alpha, dropout > 0
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        base.requires_grad_(False)
        for agent in self.agents:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stable_seed(seed, "adapter", agent))
                if agent == self.agents[0]:
                    self.model: PeftModel = get_peft_model(base, config, adapter_name=agent)
                else:
                    self.model.add_adapter(agent, config)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        for name, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                if not layer.lora_A:
                    raise ConfigError(f"lora.targets: {name} is no linear layer; name linear ones, or all-linear")
                parts = zip(layer.lora_dropout.items(), layer.lora_A.values(), layer.lora_B.values(), strict=True)
                voices = {agent: (dropout, inner, outer) for (agent, dropout), inner, outer in parts}
                layer.forward = partial(self._forward, layer.base_layer, voices)
        self.mixes = True
        """Rows of several agents can share a forward pass: every layer sees rows x tokens x features."""
        self.select(self.agents[0])
        self.precision: Callable[[], AbstractContextManager[None]] = nullcontext
        """Makes the context of every forward pass, of the engine's too where it shares these weights."""
        self._created = {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if "lora_" in name and not parameter.is_meta  # the planner works without data
        }

    @property
    def base(self) -> PreTrainedModel:
        return self.model.get_base_model()

    def select(self, agent: str) -> None:
        """Let `agent`'s adapter act in the following forward passes (and backward: checkpointed layers run again), or
        none of them for `BASE`."""
        self._speakers: Speakers = ((agent, None),)

    def select_rows(self, speakers: Speakers) -> None:
        """Let each agent act on so many rows of the following batches, in this order."""
        self._speakers = tuple(speakers)

    @contextmanager
    def acting(self, agent: str) -> Iterator[None]:
        """`agent`'s adapter acts in the block, or none of them for `BASE`; then whoever did before."""
        before = self._speakers
        self.select(agent)
        try:
            yield
        finally:
            self._speakers = before

    def disabled(self) -> AbstractContextManager[None]:
        """The frozen base alone: the reference policy."""
        return self.acting(BASE)

    def _forward(self, base_layer: Module, voices: Mapping[str, Voice], x: Tensor) -> Tensor:
        """A layer's output with what the adapters say of its input."""
        out, speakers = base_layer(x), self._speakers
        self.mixes = self.mixes and x.dim() == 3
        acting = [None if agent == BASE else voices[agent] for agent, _ in speakers]
        if not any(acting):
            return out
        if len(speakers) > 1 and not self.mixes:
            raise ConfigError("this model's layers do not see whole rows, so agents cannot share a forward pass")
        counts = [len(x) if count is None else count for _, count in speakers]
        if self._drops and self.model.training:
            parts = zip(x.split(counts), acting, strict=True)
            x = torch.cat([part if voice is None else voice[0](part) for part, voice in parts])
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else next(filter(None, acting))[1].weight.dtype
        pairs = [None if voice is None else voice[side].weight.to(dtype) for side in (1, 2) for voice in acting]
        with torch.autocast(device, enabled=False):
            both = Added.apply(x.to(dtype), out.to(dtype), counts, self.alpha / self.rank, *pairs)
        return both.to(out.dtype)

    @torch.no_grad()
    def reset(self) -> None:
        """All adapters as they were created, bit for bit."""
        for name, parameter in self.model.named_parameters():
            if name in self._created:
                parameter.copy_(sharded_like(self._created[name], parameter))

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """In the block each adapter changes the base in a way of its own; afterwards all are as before, bit for bit."""
        outer = [(a, p) for a in self.agents for name, p in self._named(a).items() if ".lora_A" not in name]
        before = [parameter.detach().clone() for _, parameter in outer]
        scale = DISTURBANCE * (3 * self.rank) ** 0.5 / self.alpha
        generators = {a: torch.Generator().manual_seed(stable_seed("disturbed", a)) for a in self.agents}
        try:
            with torch.no_grad():
                for agent, parameter in outer:
                    noise = scale * torch.randn(parameter.shape, generator=generators[agent])
                    parameter.copy_(sharded_like(noise, parameter))
            yield
        finally:
            with torch.no_grad():
                for (_, parameter), values in zip(outer, before, strict=True):
                    parameter.copy_(values)

    def parameters(self, agent: str) -> list[torch.nn.Parameter]:
        return list(self._named(agent).values())

    def _named(self, agent: str) -> dict[str, torch.nn.Parameter]:
        """`agent`'s parameters under the names that PEFT saves them with."""
        found = {}
        for name, parameter in self.model.named_parameters():
            module, _, rest = name.partition(".lora_")
            matrix, _, owner = rest.partition(".")
            if owner in (agent, f"{agent}.weight"):
                found[f"{module}.lora_{matrix}{owner.removeprefix(agent)}"] = parameter
        return found

    def save(self, folder: Path, write: bool = True) -> None:
        """Write `<folder>/<agent>/` in PEFT's own format, loadable by stock PEFT and vLLM.

        Collective where the model is sharded: all ranks call it, those with `write`=False only give their shards.
        """
        for agent in self.agents:
            tensors = {key: full(value.detach()).cpu().contiguous() for key, value in self._named(agent).items()}
            if not write:
                continue
            target = folder / agent
            target.mkdir(parents=True, exist_ok=True)
            save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
            config = self.model.peft_config[agent]
            inference_mode, config.inference_mode = config.inference_mode, True
            config.save_pretrained(str(target))
            config.inference_mode = inference_mode

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: an adapter is missing or damaged, or not of this shape, or of another base.
        """
        targets = self.model.peft_config[self.agents[0]].target_modules
        lora = {"rank": self.rank, "alpha": self.alpha, "targets": targets}
        check_adapters(folder, self.agents, lora, self.base.name_or_path)
        for agent in self.agents:
            path, mine = folder / agent / "adapter_model.safetensors", self._named(agent)
            state = load_file(path)
            if odd := sorted(state.keys() ^ mine.keys()):
                raise CheckpointError(f"{path} does not hold the tensors of adapter '{agent}': {odd[0]} has no match")
            for key, parameter in mine.items():
                parameter.copy_(sharded_like(state[key], parameter))

    def fingerprint(self) -> str:
        """Hash of all adapter weights: equal if and only if the policies are equal. Collective if sharded."""
        digest = hashlib.sha256()
        for agent in self.agents:
            for parameter in self.parameters(agent):
                digest.update(full(parameter.detach()).float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode (no dropout, no gradient checkpointing), restored afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)
