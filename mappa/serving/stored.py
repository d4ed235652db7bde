"""A trained team on disk: a run folder, or what `python -m mappa.export` made of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mappa.checkpoint import chosen_checkpoint, epoch_of
from mappa.errors import ConfigError

TEAM = "team.yaml"
"""In an exported folder: what the team is made of."""
_RESOLVED = ("name", "seed", "threads", "team", "sandbox", "lora", "engine", "data")
_AS_WRITTEN = ("model", "task")
"""Their paths may be of the package, or of the run."""


@dataclass(frozen=True)
class Stored:
    cfg: DictConfig
    adapters: Path
    """Folder with one of each agent's."""
    epoch: int
    """Epochs that it was trained."""


def stored(folder: str | Path, checkpoint: str = "last") -> Stored:
    """
    Args:
        folder: a run, or an exported team.
        checkpoint: of a run: `last`, `best`, or a number of epochs.

    Raises:
        CheckpointError: neither, or it has no such checkpoint.
        ConfigError: an exported team has no choice of checkpoints.
    """
    folder = Path(folder)
    if (folder / TEAM).is_file():
        if checkpoint != "last":
            raise ConfigError(f"{folder} is an exported team, with one set of adapters; leave checkpoint= out")
        cfg = OmegaConf.load(folder / TEAM)
        epoch = cfg.pop("epoch")
        return Stored(cfg, folder / "adapters", epoch)
    found = chosen_checkpoint(folder, checkpoint)
    return Stored(OmegaConf.load(folder / ".hydra" / "config.yaml"), found / "adapters", epoch_of(found))


def team_config(found: Stored) -> DictConfig:
    """What of a run's configuration it takes to let the team act; `stored` reads it back."""
    cfg = found.cfg
    as_written = OmegaConf.to_container(cfg, resolve=False)
    kept = {key: as_written[key] for key in _AS_WRITTEN}
    for key in _RESOLVED:
        value = OmegaConf.select(cfg, key)
        kept[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    kept["data"] |= {"folder": None, "stored": None}
    return OmegaConf.create({"epoch": found.epoch, **kept, "paths": {"run": None, "outputs": None}})
