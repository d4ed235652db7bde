"""Which base model is finetuned, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mappa.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mappa.policy.chat import Chat


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer, from a local folder or a Hugging Face hub id."""

    path: str
    dtype: str = "bfloat16"
    """`float32`, `bfloat16` or `float16`: of the frozen base; adapters are kept in float32."""
    attention: str = "sdpa"
    """`sdpa`, `eager`, `flash_attention_2`, ... as transformers names them."""
    gradient_checkpointing: bool = False
    template: Mapping[str, Any] = field(default_factory=dict)
    """Extra keyword arguments of the chat template, e.g. `enable_thinking: false`."""

    def check(self) -> None:
        """Read the model's config only; nothing slow.

        Raises:
            ConfigError: neither a model folder nor a known hub id.
        """
        from transformers import AutoConfig

        folder = Path(self.path).expanduser()
        looks_local = folder.is_absolute() or self.path.startswith((".", "~")) or folder.exists()
        if looks_local and not (folder / "config.json").is_file():
            raise ConfigError(f"model.path={self.path} is not a model folder (no config.json in it)")
        try:
            AutoConfig.from_pretrained(str(folder) if looks_local else self.path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model.path={self.path} cannot be loaded: {str(error).splitlines()[0]} "
                "(give a local folder, or a hub id while online)"
            ) from error

    def load(self) -> PreTrainedModel:
        """The frozen base model, in evaluation mode until Lightning trains it."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            self.path, dtype=getattr(torch, self.dtype), attn_implementation=self.attention
        )
        return self.prepare(model)

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Settings of a model that is made already."""
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def chat(self) -> Chat:
        from transformers import AutoTokenizer

        from mappa.policy.chat import Chat

        return Chat(AutoTokenizer.from_pretrained(self.path), self.template)
