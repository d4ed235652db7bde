"""Run folders and their checkpoints on disk: found and checked without loading anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mappa.errors import CheckpointError

BEST = "best.json"
"""In the folder of the checkpoints: which of them did best in validation."""


def saved(folder: Path) -> list[Path]:
    """Complete checkpoints, the newest last; one that was about to be replaced when the run was killed is one, too."""
    found = [*folder.glob("replaced-epoch=*"), *folder.glob("epoch=*")]
    return sorted(found, key=epoch_of)


def epoch_of(checkpoint: Path) -> int:
    """Epochs trained before it was saved."""
    return int(checkpoint.name.rpartition("=")[2])


def last_checkpoint(run: str | Path) -> Path:
    """The newest complete checkpoint of a run folder.

    Raises:
        CheckpointError: not a run folder, or nothing was saved in it yet.
    """
    run = Path(run)
    if not (run / ".hydra" / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder (no .hydra/config.yaml in it); give outputs/NAME/TIME")
    found = saved(run / "checkpoints")
    if not found:
        raise CheckpointError(
            f"{run} has no checkpoint yet; start the run anew without resume= (verdicts paid for so far "
            "are in judge.ledger, by default outputs/judge.sqlite, and cost nothing again)"
        )
    return found[-1]


def check_epochs(checkpoint: Path, max_epochs: int) -> None:
    """
    Raises:
        CheckpointError: more epochs were trained than the run is to have.
    """
    done = epoch_of(checkpoint)
    if done > max_epochs:
        raise CheckpointError(
            f"{checkpoint} has {done} epochs behind it, but trainer.max_epochs={max_epochs}; set at least {done}"
        )


def chosen_checkpoint(run: str | Path, which: str) -> Path:
    """The checkpoint `last`, `best` (in validation, see `callbacks.checkpoint.best`), or of so many epochs.

    Raises:
        CheckpointError: as of `last_checkpoint`, or there is no such one.
    """
    last = last_checkpoint(run)
    if which == "last":
        return last
    noted = last.parent / BEST
    if which == "best" and not noted.is_file():
        raise CheckpointError(
            f"{run} knows no best checkpoint: none was saved when it was validated; use checkpoint=last"
        )
    epoch = json.loads(noted.read_text())["epoch"] if which == "best" else which
    there = {str(epoch_of(path)): path for path in saved(last.parent)}
    if str(epoch) not in there:
        raise CheckpointError(f"{run} has no checkpoint={which}; available: best, last, {', '.join(there)}")
    return there[str(epoch)]


def check_adapters(folder: Path, agents: Sequence[str], lora: Mapping[str, Any], base: str) -> None:
    """Check from the config files alone, so that a mismatch is found before any model is loaded.

    Args:
        lora: `rank`, `alpha` and `targets`; targets that are a word (`all-linear`) are known only with the model.
        base: path of the model that they are put on.

    Raises:
        CheckpointError: an adapter is missing, or it is not of this shape, or of another base.
    """
    for agent in agents:
        path = folder / agent / "adapter_config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no adapter for agent '{agent}'; is it a checkpoint of this team?")
        saved = json.loads(path.read_text())
        for name, key in (("rank", "r"), ("alpha", "lora_alpha")):
            if saved[key] != lora[name]:
                raise CheckpointError(
                    f"adapter '{agent}' in {folder} has {name} {saved[key]}, but lora.{name}={lora[name]}; "
                    f"set lora.{name}={saved[key]}"
                )
        targets = saved["target_modules"]
        if not isinstance(lora["targets"], str) and set(lora["targets"]) != set(targets):
            raise CheckpointError(
                f"adapter '{agent}' in {folder} has targets {','.join(sorted(targets))}, but "
                f"lora.targets={','.join(sorted(lora['targets']))}; set lora.targets=[{','.join(sorted(targets))}]"
            )
        trained_on = saved["base_model_name_or_path"]
        if trained_on and Path(trained_on).name != Path(base).name:
            raise CheckpointError(
                f"adapter '{agent}' in {folder} was trained on {trained_on}, but model.path={base}; "
                f"set model.path={trained_on}"
            )
