"""Grade a trained team: `python -m mappa.evaluate run=outputs/NAME/TIME [task=...] [adapters=none] [samples=4]`.

Words:
    run=FOLDER     the run whose newest checkpoint is graded, with the configuration it was trained with
    adapters=none  the untrained team (the base model) instead
    samples=K      episodes per problem: avg@K, unbiased pass@k and maj@K, with 95% intervals over problems
    limit=N        problems per validation set
    anything else  a configuration override, e.g. `task=aime_2025`, `callbacks.validation.temperature=0.6`
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.config import CONF, check, compose, last_checkpoint, make, register_resolvers, run_guarded
from mappa.errors import ConfigError

_WORDS = {"run": None, "adapters": "last", "samples": "1", "limit": "null"}


def evaluate(argv: list[str]) -> Path:
    """Returns the folder in the run that holds the results: per-problem records and `summary.json`."""
    words, overrides = _split(argv)
    checkpoint = last_checkpoint(words["run"])
    run = Path(words["run"])
    cfg = override(OmegaConf.load(run / ".hydra" / "config.yaml"), overrides)
    folder = run / "evaluation" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    OmegaConf.update(cfg, "data.folder", None)
    OmegaConf.update(cfg, "paths.run", str(run))
    validation = dict(cfg.callbacks.validation)
    validation |= {"folder": str(folder), "samples": int(words["samples"]), "before": True}
    validation["limit"] = None if words["limit"] == "null" else int(words["limit"])
    check(cfg)

    from callbacks.progress import ProgressCallback
    from callbacks.summary import SummaryCallback
    from mappa.train import build, prepare

    prepare(cfg)
    data, module = build(cfg, training=False)
    try:
        if words["adapters"] != "none":
            module.adapters_from = checkpoint / "adapters"
        callbacks = [
            make(validation),
            ProgressCallback(),
            SummaryCallback(str(folder / "summary.json"), cfg.name),
        ]
        settings = OmegaConf.merge(cfg.trainer, {"limit_train_batches": 0, "enable_checkpointing": False})
        trainer = make(settings, callbacks=callbacks, logger=False)
        trainer.fit(module, data)
    finally:
        data.close()
    return folder


def override(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Apply `key=value` words: a config group takes one of its files, everything else is set in place.

    Raises:
        ConfigError: an unknown option of a group, or a word that is no assignment.
    """
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not an assignment; write key=value")
        if (CONF / key).is_dir():
            _replace_group(cfg, key, value)
        else:
            OmegaConf.update(cfg, key, OmegaConf.create({"value": _parse(value)})["value"], force_add=True)
    return cfg


def _replace_group(cfg: DictConfig, group: str, option: str) -> None:
    available = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if option not in available:
        raise ConfigError(f"{group}={option} is unknown; available: {', '.join(available)}")
    if group == "judge":
        raise ConfigError(f"judge={option}: held-out tasks are graded by the task, without a judge; leave it out")
    cfg[group] = compose([], f"{group}/{option}")[group]


def _parse(value: str) -> Any:
    return OmegaConf.create(f"value: {value}")["value"]


def _split(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    words, overrides = dict(_WORDS), []
    for word in argv:
        key, _, value = word.partition("=")
        if key in words:
            words[key] = value
        else:
            overrides.append(word)
    if not words["run"]:
        raise ConfigError("say which run: python -m mappa.evaluate run=outputs/NAME/TIME")
    if words["adapters"] not in ("last", "none"):
        raise ConfigError(f"adapters={words['adapters']} is unknown; available: last, none")
    if not words["samples"].isdigit() or int(words["samples"]) < 1:
        raise ConfigError(f"samples={words['samples']} must be a whole number of at least 1")
    return words, overrides


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)  # noqa: T201 command-line output
        return
    register_resolvers()
    print(evaluate(sys.argv[1:]))  # noqa: T201 the command's last line


if __name__ == "__main__":
    run_guarded(main)
