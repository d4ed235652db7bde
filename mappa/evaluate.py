"""Grade a trained team: `python -m mappa.evaluate run=outputs/NAME/TIME [task=...] [adapters=none] [samples=4]`.

Words:
    run=FOLDER     the run whose checkpoint is graded, with the configuration it was trained with
    checkpoint=    last (default), best (in validation), or a number of epochs whose checkpoint is still there
    adapters=none  the untrained team (the base model) instead
    samples=K      episodes per problem: avg@K, unbiased pass@k and (where the task has a vote) maj@K, printed with
                   their 95% intervals over problems
    limit=N        problems per validation set
    anything else  a configuration override, e.g. `task=aime_2025`, `callbacks.validation.temperature=0.6`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.checkpoint import check_adapters, chosen_checkpoint, epoch_of
from mappa.command import help_text, options, run_guarded, split, wants_help
from mappa.config import CONF, compose, make, register_resolvers
from mappa.errors import ConfigError
from mappa.play.rollout import adapters_of
from mappa.train import build, cheap_parts, prepare

_WORDS = {"run": None, "checkpoint": "last", "adapters": "last", "samples": "1", "limit": "null"}


def evaluate(argv: list[str]) -> Path:
    """Returns the folder in the run that holds the results: per-problem records and `summary.json`."""
    words, overrides, folders = split(argv, _WORDS)
    _check_words(words)
    checkpoint = chosen_checkpoint(words["run"], words["checkpoint"])
    run = Path(words["run"])
    chosen = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.runtime.choices
    cfg = override(OmegaConf.load(run / ".hydra" / "config.yaml"), overrides, folders, chosen)
    folder = run / "evaluation" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    OmegaConf.update(cfg, "data.folder", None)
    OmegaConf.update(cfg, "paths.run", str(run))
    validation = dict(cfg.callbacks.validation)
    validation |= {"folder": str(folder), "samples": int(words["samples"])}
    validation |= {"before": True, "every_n_epochs": 1}  # whichever checkpoint it is
    validation["limit"] = None if words["limit"] == "null" else int(words["limit"])
    callbacks = {"validation": validation, "diversity": cfg.callbacks.get("diversity")}
    OmegaConf.update(cfg, "callbacks", {k: v for k, v in callbacks.items() if v is not None}, merge=False)
    parts = cheap_parts(cfg, training=False)
    if words["adapters"] != "none":
        check_adapters(checkpoint / "adapters", adapters_of(parts.team), cfg.lora, cfg.model.path)

    prepare(cfg)
    from callbacks.progress import ProgressCallback
    from callbacks.summary import SummaryCallback

    data, module = build(cfg, parts)
    graded = "the untrained base"
    try:
        if words["adapters"] != "none":
            module.adapters_from, data.epoch, graded = checkpoint / "adapters", epoch_of(checkpoint), str(checkpoint)
        callbacks = [
            *(make(callback) for callback in cfg.callbacks.values()),
            ProgressCallback(),
            SummaryCallback(str(folder / "summary.json"), cfg.name, graded),
        ]
        settings = OmegaConf.merge(cfg.trainer, {"limit_train_batches": 0, "enable_checkpointing": False})
        trainer = make(settings, callbacks=callbacks, logger=False)
        trainer.fit(module, data)
    finally:
        data.close()
    return folder


def measures(folder: Path) -> list[str]:
    """avg@k, and of several attempts pass@k and, where the task has a vote, maj@k: a line each, with its interval."""
    found = json.loads((folder / "summary.json").read_text())["validation"]
    return [
        f"{result['name']}  {name:<7} {m['mean']:.3f}  [{m['low']:.3f}, {m['high']:.3f}]  {m['n']} problems"
        for result in found
        for name, m in result["measures"].items()
    ]


def override(
    cfg: DictConfig, overrides: Sequence[str], folders: Sequence[Path] = (), chosen: Mapping[str, str] | None = None
) -> DictConfig:
    """Apply `key=value` words: a config group takes one of its files, everything else is set in place.

    Args:
        folders: users' own configuration folders.
        chosen: group -> option that the run was made of; a team that its model knows by shorter prompts gets them.

    Raises:
        ConfigError: an unknown option of a group, or a word that has no place here.
    """
    chosen, values = dict(chosen or {}), []
    for word in overrides:
        key, equals, value = word.lstrip("+").partition("=")
        if not equals:
            raise ConfigError(f"'{word}': a graded run keeps what it was trained with; write key=value")
        if key in ("experiment", "debug"):
            raise ConfigError(f"'{word}': a graded run has its own configuration; leave it out")
        if any((place / key).is_dir() for place in (CONF, *folders)):
            _replace_group(cfg, key, value, folders)
            chosen[key] = value
        else:
            values.append((key, _parse(value)))
    short = f"{chosen.get('model')}_{chosen.get('team')}"
    if any(word.startswith("team=") for word in overrides) and short in options("team/short", folders):
        cfg.team = OmegaConf.merge(cfg.team, _composed("team/short", short, folders).team.short)
    for key, value in values:
        OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def _replace_group(cfg: DictConfig, group: str, option: str, folders: Sequence[Path]) -> None:
    available = options(group, folders)
    if option not in available:
        raise ConfigError(f"{group}={option} is unknown; available: {', '.join(available)}")
    if group == "judge":
        raise ConfigError(f"judge={option}: held-out tasks are graded by the task, without a judge; leave it out")
    cfg[group] = _composed(group, option, folders)[group]


def _composed(group: str, option: str, folders: Sequence[Path]) -> DictConfig:
    places = [CONF, *folders]
    root = next(place for place in places if (place / group / f"{option}.yaml").is_file())
    return compose([], f"{group}/{option}", [place for place in places if place != root], root)


def _parse(value: str) -> Any:
    return OmegaConf.create(f"value: {value}")["value"]


def _check_words(words: Mapping[str, str | None]) -> None:
    if not words["run"]:
        raise ConfigError("say which run: python -m mappa.evaluate run=outputs/NAME/TIME")
    if words["adapters"] not in ("last", "none"):
        raise ConfigError(f"adapters={words['adapters']} is unknown; available: last, none")
    for key in ("samples", "limit"):
        value = words[key]
        if not (value.isdigit() and int(value) >= 1) and not (key == "limit" and value == "null"):
            raise ConfigError(f"{key}={value} must be a whole number of at least 1")


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    register_resolvers()
    folder = evaluate(sys.argv[1:])
    print("\n".join(measures(folder)))  # noqa: T201 command-line output
    print(folder)  # noqa: T201 the command's last line


if __name__ == "__main__":
    run_guarded(main)
