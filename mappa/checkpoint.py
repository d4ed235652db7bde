"""Run folders and their checkpoints on disk: found and checked without loading anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mappa.errors import CheckpointError

BEST = "best.json"
"""In the folder of the checkpoints: which of them did best in validation."""


def last_checkpoint(run: str | Path) -> Path:
    """The newest complete checkpoint of a run folder.

    Raises:
        CheckpointError: not a run folder, or nothing was saved in it yet.
    """
    run = Path(run)
    if not (run / ".hydra" / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder (no .hydra/config.yaml in it); give outputs/NAME/TIME")
    found = sorted((run / "checkpoints").glob("epoch=*"), key=lambda path: int(path.name.partition("=")[2]))
    if not found:
        raise CheckpointError(f"{run} has no checkpoint yet; start the run anew without resume=")
    return found[-1]


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
    chosen = last.parent / f"epoch={epoch}"
    if not chosen.is_dir():
        there = sorted(int(path.name.partition("=")[2]) for path in last.parent.glob("epoch=*"))
        raise CheckpointError(f"{run} has no checkpoint={which}; available: best, last, {', '.join(map(str, there))}")
    return chosen


def check_adapters(folder: Path, agents: Sequence[str], rank: int) -> None:
    """Check from the config files alone, so that a mismatch is found before any model is loaded.

    Raises:
        CheckpointError: an adapter is missing, or its rank differs from `rank`.
    """
    for agent in agents:
        path = folder / agent / "adapter_config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no adapter for agent '{agent}'; is it a checkpoint of this team?")
        saved = json.loads(path.read_text())["r"]
        if saved != rank:
            raise CheckpointError(
                f"adapter '{agent}' in {folder} has rank {saved}, but lora.rank={rank}; set lora.rank={saved}"
            )
