"""The model card of an exported team: what it is, how it was trained, how good it is, and how it is used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mappa.config import ASSETS
from mappa.engine.vllm import LORA_RANKS


def card(team: Mapping[str, Any], model: str, adapters: Sequence[str], rank: int, facts: Mapping[str, Any]) -> str:
    """Markdown with the hub's header.

    Args:
        team: seat -> (adapter, role).
        model: the base: a folder, or a hub id.
        facts: `name`, `epochs`, `task`, `judge`, `objective`, `licence` of the base, and `validation`, rows of a table.
    """
    from jinja2 import Environment, StrictUndefined

    text = (files("mappa.serving") / "card.md").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    base = base_of(model)
    told = {"local": base != model, "line": serve_line(base, adapters, rank)}
    return environment.from_string(text).render(team=team, base=base, adapters=adapters, **told, **facts) + "\n"


def serve_line(base: str, adapters: Sequence[str], rank: int, folder: str = "adapters") -> str:
    """The command with which stock vLLM serves every agent under its own name.

    Args:
        base: folder or hub id of the base model.
        folder: of the adapters, from where the command is run.
    """
    fitting = next(allowed for allowed in LORA_RANKS if allowed >= rank)
    modules = [f"{name}={folder}/{name}" for name in adapters]
    sizes = ["--max-loras", str(len(adapters)), "--max-lora-rank", str(fitting)]
    return shlex.join(["vllm", "serve", base, "--enable-lora", *sizes, "--lora-modules", *modules])


def base_of(model: str) -> str:
    """How others get the base: its hub id; of a local folder its name, since where it lies is this machine's affair."""
    path = Path(model).expanduser()
    return path.name if path.is_dir() else model


def licence_of(model: str) -> str | None:
    """Of the base model: by its model card, here or on the hub; None where neither tells."""
    path = Path(model).expanduser()
    if path.is_dir() and path.resolve().is_relative_to(ASSETS.resolve()):
        return "apache-2.0"  # made by this project
    from huggingface_hub import ModelCard, model_info
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if path.is_dir():
        readme = path / "README.md"
        return ModelCard.load(readme).data.get("license") if readme.is_file() else None
    try:
        found = model_info(model, timeout=10).card_data
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return None
    return None if found is None else found.get("license")
