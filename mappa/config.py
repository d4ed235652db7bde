"""Between Hydra and the parts: resolvers, strict checks, and one-line errors."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mappa.errors import CheckpointError, ConfigError, MappaError

CONF = Path(__file__).resolve().parent.parent / "conf"
ASSETS = Path(__file__).resolve().parent / "assets"
SETTINGS = {"name", "seed", "threads", "resume"}
"""Top-level keys that are plain values; every other one is a part (a mapping)."""
PARTS = {
    *("paths", "task", "team", "model", "engine", "judge", "credit", "sandbox", "trainer", "callbacks", "logger"),
    *("lora", "data", "module"),
}
_PASSED_BY_CODE = {
    "mappa.policy.lora.Adapters": {"base", "agents"},
    "mappa.learn.data.RolloutDataModule": {"task_set", "team", "engine", "pool"},
    "mappa.learn.module.TeamModule": {"model", "lora", "agents", "credit"},
    "lightning.pytorch.Trainer": {"callbacks", "logger"},
}
"""Constructor arguments that `mappa.train` fills in."""


def register_resolvers() -> None:
    """The resolvers that conf/ uses.

    `${asset:NAME}`: a folder shipped with the package. `${run_folder:...}`: where this run writes.
    `${importance_cap:ENGINE}`: 2.0 for engines with weights of their own, none where trainer and engine are one model.
    """
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("importance_cap", _importance_cap, replace=True)


def _importance_cap(engine: str) -> float | None:
    return None if engine == "mappa.engine.hf.HFEngine" else 2.0


@functools.cache
def _run_folder(resume: str | None, outputs: str, name: str) -> str:
    """One folder for all processes of a run: whoever else starts them gives the run its name.

    Raises:
        ConfigError: under torchrun without an id.
    """
    from datetime import datetime

    if resume:
        return resume
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stamp = os.environ["TORCHELASTIC_RUN_ID"]
        if stamp == "none":
            raise ConfigError("torchrun needs an id that names the run folder: torchrun --rdzv-id=NAME ...")
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        stamp = f"slurm-{os.environ['SLURM_JOB_ID']}"
    return f"{outputs}/{name}/{stamp}"


def compose(overrides: list[str], name: str = "train") -> DictConfig:
    """The composition of `conf/<name>.yaml`, outside of Hydra's own command line."""
    import hydra

    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, overrides)


def check(cfg: DictConfig) -> None:
    """Find mistakes that Hydra merges silently: unknown top-level keys, and keys no constructor knows.

    Raises:
        ConfigError: names the key and what is available.
    """
    for key in cfg:
        if key not in SETTINGS | PARTS:
            raise ConfigError(f"unknown configuration key '{key}'; available: {', '.join(sorted(SETTINGS | PARTS))}")
    for where, node in _targets(OmegaConf.to_container(cfg, resolve=False), ""):
        _bind(where, node)


def _targets(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, with its dotted place in the configuration."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from _targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{where}[{index}]")


def _bind(where: str, node: Mapping[str, Any]) -> None:
    target = str(node["_target_"])
    module, _, name = target.rpartition(".")
    try:
        callable_: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}._target_={target} cannot be imported: {error}") from error
    parameters = inspect.signature(callable_).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    keys = {key for key in node if key not in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")}
    for key in sorted(keys - set(parameters)):
        raise ConfigError(f"unknown key '{where}.{key}'; {target} takes: {', '.join(sorted(parameters))}")
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    for key in sorted(required - keys - _PASSED_BY_CODE.get(target, set())):
        raise ConfigError(f"'{where}.{key}' is missing; {target} needs it")


def make(node: Any, *args: Any, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate`, but what a part says of its arguments comes out as one line.

    Raises:
        MappaError: the part's own, or a `ConfigError` for a `ValueError`.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, MappaError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(f"{node['_target_']}: {error.__cause__}") from error
        raise


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


def resume_arguments(argv: list[str]) -> list[str]:
    """`resume=outputs/NAME/TIME` alone means: with the configuration that the run was started with.

    That configuration stays in the run folder: Hydra writes none over it.

    Raises:
        CheckpointError: the folder is no run.
    """
    resume = next((arg.partition("=")[2] for arg in argv if arg.startswith("resume=")), None)
    if resume in (None, "", "null") or "--config-path" in argv:  # ranks that Lightning starts are given our words
        return argv
    last_checkpoint(resume)
    argv = ["hydra.output_subdir=null", *argv]
    if any(arg.lstrip("+").startswith(("experiment=", "task=")) for arg in argv):
        return argv
    folder = Path(resume).resolve() / ".hydra"
    return ["--config-path", str(folder), "--config-name", "config", f"hydra.run.dir={resume}", *argv]


def quiet() -> None:
    """Leave the screen to our own messages: the libraries' tips and progress bars say nothing a user can act on."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)  # a rank died
    for message in (
        ".*It is recommended to use.*sync_dist.*",
        ".*LeafSpec.*",
        ".*transfer_batch_to_device.*",
        ".*does not have many workers.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def run_guarded(main: Callable[[], Any]) -> None:
    """Run a command; a user's mistake is one line on stderr and exit status 1, everything else a traceback."""
    from hydra.errors import HydraException

    try:
        main()
    except MappaError as error:
        sys.exit(f"error: {error}")
    except HydraException as error:
        sys.exit(f"error: {' '.join(str(error).partition('Config search path')[0].split())}")
