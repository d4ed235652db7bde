"""Which base model is finetuned, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mappa.errors import ConfigError
from mappa.hub import unreachable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from mappa.policy.chat import Chat


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer, from a local folder or a Hugging Face hub id."""

    path: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the frozen base; adapters are kept in float32."""
    attention: str = "sdpa"
    """`sdpa`, `eager`, `flash_attention_2`, ... as transformers names them."""
    gradient_checkpointing: bool = False
    float32_head: bool = False
    """Logits are computed in float32, also where the rest is not, in the update and by the hf engine."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Extra keyword arguments of the chat template, e.g. `enable_thinking: false`."""

    def check(self, weights: bool = True) -> None:
        """Look at the model's folder, or ask the hub once; nothing slow, nothing is loaded.

        Args:
            weights: they must be there, too.

        Raises:
            ConfigError: neither a model folder nor a hub id that can be had.
        """
        if self._is_local:
            if self._config() is None:
                raise ConfigError(f"model.path={self.path} is not a model folder (no config.json in it)")
            if "model_type" not in self._config():
                raise ConfigError(f"model.path={self.path}: its config.json names no model_type")
            if weights and not self._weights():
                raise ConfigError(f"model.path={self.path} holds no weights (model*.safetensors)")
        elif self._config() is None and (reason := unreachable(self.path, "config.json")):
            raise ConfigError(
                f"model.path={self.path} cannot be had from the hub: {reason} (give a local folder, or a hub id while "
                "online)"
            )

    def context_length(self) -> int | None:
        """Most tokens of prompt + completion, by the model's config; None where that is not on this machine yet."""
        config = self._config() or {}
        config = config.get("text_config", config)
        return config.get("max_position_embeddings", config.get("n_positions"))

    def _weights(self) -> list[Path]:
        folder = Path(self.path).expanduser()
        return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]

    @property
    def _is_local(self) -> bool:
        folder = Path(self.path).expanduser()
        return folder.is_absolute() or self.path.startswith((".", "~")) or folder.exists()

    def _config(self) -> dict[str, Any] | None:
        """The model's config.json; None where it is not on this machine."""
        if self._is_local:
            path = Path(self.path).expanduser() / "config.json"
        else:
            from huggingface_hub import try_to_load_from_cache
            from huggingface_hub.errors import HFValidationError

            try:
                path = Path(try_to_load_from_cache(self.path, "config.json") or "")
            except HFValidationError as error:
                raise ConfigError(f"model.path={self.path} is neither a folder nor a hub id: {error}") from error
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error

    def load(self, weights: bool = True) -> PreTrainedModel:
        """The frozen base model, in evaluation mode until Lightning trains it.

        Args:
            weights: read them; else they are left as memory holds them, which costs next to none of it.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = {"dtype": getattr(torch, self.dtype), "attn_implementation": self.attention}
        if weights:
            return self.prepare(AutoModelForCausalLM.from_pretrained(self.path, **settings))
        from accelerate import init_empty_weights

        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.path), **settings)
        materialize(model)
        model.tie_weights()
        return self.prepare(model.eval())

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Settings of a model that is made already."""
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.float32_head:
            from mappa.policy.forward import float32_linear

            head = model.get_output_embeddings()
            head.forward = partial(float32_linear, head)
        return model

    def chat(self) -> Chat:
        from transformers import AutoTokenizer

        from mappa.policy.chat import Chat

        return Chat(AutoTokenizer.from_pretrained(self.path), self.template, self._stop_ids())

    def _stop_ids(self) -> list[int]:
        """What the model's generation config says ends its turn: chat models name several tokens, or none."""
        from transformers import GenerationConfig

        try:
            named = GenerationConfig.from_pretrained(self.path).eos_token_id
        except OSError:  # the model has no such file
            return []
        return [] if named is None else named if isinstance(named, list) else [named]


def materialize(model: torch.nn.Module) -> None:
    """Replace meta tensors by ones on the CPU that hold anything; ties stay tied."""
    import torch

    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and old.is_meta:
                if id(old) not in made:
                    data = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = torch.nn.Parameter(data, requires_grad=old.requires_grad)
                module._parameters[name] = made[id(old)]
        for name, old in module._buffers.items():
            if old is not None and old.is_meta:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)
