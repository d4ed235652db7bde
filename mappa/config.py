"""Between Hydra and the parts: composition, resolvers, strict checks, and one-line errors."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from mappa.errors import ConfigError, MappaError
from mappa.signature import Parameter, Signature, signature

_PACKAGE = Path(__file__).resolve().parent
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
"""Inside the package where it was installed from a wheel, beside it in a checkout."""
ASSETS = _PACKAGE / "assets"
SETTINGS = {
    "name": Parameter(str | int),
    "seed": Parameter(int),
    "threads": Parameter(Annotated[int, Gt(0)] | None),
    "resume": Parameter(str | None),
}
"""Top-level keys that are plain values; every other one is a part (a mapping)."""
PARTS = {
    *("paths", "task", "team", "model", "engine", "judge", "objective", "credit", "reward", "select"),
    *("sandbox", "trainer", "callbacks", "logger", "lora", "data", "module"),
}
_PASSED_BY_CODE = {
    "mappa.policy.lora.Adapters": {"base", "agents"},
    "mappa.learn.data.RolloutDataModule": {"task_set", "team", "engine", "pool", "made_with"},
    "mappa.learn.module.TeamModule": {"model", "lora", "agents", "objective"},
    "lightning.pytorch.Trainer": {"callbacks", "logger"},
}
"""Constructor arguments that `mappa.train` fills in."""
_OF_HYDRA = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


# ---------------------------------------------------------------------- composition
def register_resolvers() -> None:
    """The resolvers that conf/ uses.

    `${asset:NAME}`: a folder shipped with the package. `${run_folder:...}`: where this run writes.
    `${importance_cap:ENGINE}`: 2.0 for engines with weights of their own, none where trainer and engine are one model.
    `${together:TASKS,SAMPLES,CONCURRENCY}`: episodes of an epoch that are played at the same time.
    """
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("importance_cap", _importance_cap, replace=True)
    OmegaConf.register_new_resolver("together", lambda tasks, each, most: min(tasks * each, most), replace=True)


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


def compose(
    overrides: Sequence[str], name: str = "train", folders: Sequence[Path] = (), root: Path = CONF
) -> DictConfig:
    """The composition of `<root>/<name>.yaml`, outside of Hydra's own command line.

    Args:
        folders: where else configuration files lie, as `--config-dir` names them.
    """
    return compose_with_origin(overrides, name, folders, root)[0]


def compose_with_origin(
    overrides: Sequence[str], name: str = "train", folders: Sequence[Path] = (), root: Path = CONF
) -> tuple[DictConfig, Origin]:
    """As `compose`; also which files it was made of."""
    import hydra

    register_resolvers()
    places = [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in folders)}]"] if folders else []
    with hydra.initialize_config_dir(str(root.resolve()), version_base="1.3"):
        cfg = hydra.compose(name, [*places, *overrides], return_hydra_config=True)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Origin.of(cfg.hydra)


@dataclass(frozen=True)
class Origin:
    """Which files of the user's own a composition was made of, to say where a mistake stands."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Config group -> file."""
    words: tuple[str, ...] = ()
    """Of the command line."""

    @classmethod
    def of(cls, hydra: DictConfig) -> Origin:
        """From Hydra's own node."""
        sources = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
        files = {
            group: path
            for folder in reversed([folder for folder in sources if folder != CONF])
            for group, option in hydra.runtime.choices.items()
            if (path := folder / group / f"{option}.yaml").is_file()
        }
        return cls(files, tuple(OmegaConf.to_container(hydra.overrides.task, resolve=False)))

    @classmethod
    def of_command(cls) -> Origin:
        """Of the command that Hydra runs; empty outside of one."""
        from hydra.core.hydra_config import HydraConfig

        return cls.of(HydraConfig.get()) if HydraConfig.initialized() else cls()

    def where(self, key: str) -> str:
        """` (in FILE)` where a file of the user's own sets `key`; empty for shipped files and the command line."""
        if any(word.lstrip("+").startswith(f"{key}=") for word in self.words):
            return ""
        return next((f" (in {path})" for group, path in self.files.items() if _sets(path, group, key)), "")


def _sets(path: Path, group: str, key: str) -> bool:
    """Whether the file of a config group sets `key`."""
    package = "" if "@package _global_" in path.read_text() else group.replace("/", ".") + "."
    return key.startswith(package) and OmegaConf.select(OmegaConf.load(path), key.removeprefix(package)) is not None


# ---------------------------------------------------------------------- checks
def check(cfg: DictConfig, origin: Origin | None = None) -> None:
    """Find mistakes that Hydra merges silently: unknown keys, and values of a wrong type or out of range.

    Nothing is imported: signatures are read from source. What source does not tell is left to `check_imported`.

    Args:
        origin: of the configuration; None = of the running command.

    Raises:
        ConfigError: names the key, what is available, and the user's own file that holds it.
    """
    checks = _Checks(cfg, origin or Origin.of_command())
    checks.top_level()
    for where, node in _targets(OmegaConf.to_container(cfg, resolve=False), ""):
        found = checks.read(where, str(node["_target_"]))
        if found is not None:
            checks.bind(where, node, found)


def check_imported(cfg: DictConfig) -> None:
    """The same for parts whose source does not tell what they take; imports them.

    Raises:
        ConfigError: as `check`.
    """
    checks = _Checks(cfg, Origin.of_command())
    for where, node in _targets(OmegaConf.to_container(cfg, resolve=False), ""):
        target = str(node["_target_"])
        if checks.read(where, target) is None:
            checks.bind(where, node, checks.inspect(where, target))


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


@dataclass(frozen=True)
class _Checks:
    """Each raises `ConfigError`."""

    cfg: DictConfig
    origin: Origin

    def top_level(self) -> None:
        for key in self.cfg:
            if key in SETTINGS:
                self.value(key, SETTINGS[key])
            elif key not in PARTS:
                available = ", ".join(sorted({*SETTINGS, *PARTS}))
                raise ConfigError(f"unknown configuration key '{key}'{self.origin.where(key)}; available: {available}")

    def read(self, where: str, target: str) -> Signature | None:
        try:
            return signature(target)
        except ConfigError as error:
            raise self._unusable(where, target, error) from error

    def inspect(self, where: str, target: str) -> Signature:
        module, _, name = target.rpartition(".")
        try:
            parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise self._unusable(where, target, error) from error
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return Signature(
            {p.name: Parameter(required=p.default is p.empty) for p in named},
            open=any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def _unusable(self, where: str, target: str, error: Exception) -> ConfigError:
        key = f"{where}._target_"
        return ConfigError(f"{key}={target} cannot be imported{self.origin.where(key)}: {error}")

    def bind(self, where: str, node: Mapping[str, Any], found: Signature) -> None:
        target, keys = node["_target_"], set(node) - _OF_HYDRA
        for key in sorted(keys - set(found.parameters)):
            if not found.open:
                takes, place = ", ".join(sorted(found.parameters)), self.origin.where(f"{where}.{key}")
                raise ConfigError(f"unknown key '{where}.{key}'{place}; {target} takes: {takes}")
        required = {name for name, parameter in found.parameters.items() if parameter.required}
        for key in sorted(required - keys - _PASSED_BY_CODE.get(target, set())):
            raise ConfigError(f"'{where}.{key}' is missing{self.origin.where(where)}; {target} needs it")
        for key in sorted(keys & set(found.parameters)):
            self.value(f"{where}.{key}", found.parameters[key])

    def value(self, key: str, parameter: Parameter) -> None:
        """One value against its annotation; what the environment decides is left to its part."""
        try:
            value = OmegaConf.select(self.cfg, key, throw_on_missing=True)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except MissingMandatoryValue:
            raise ConfigError(f"{key} is not set{self.origin.where(key)}; give {key}=VALUE") from None
        except InterpolationKeyError as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}{self.origin.where(key)}") from error
        except OmegaConfBaseException:
            return
        if parameter.annotation is Any or (isinstance(value, Mapping) and "_target_" in value):
            return
        from pydantic import TypeAdapter, ValidationError

        try:
            TypeAdapter(parameter.annotation).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            wanted = dict.fromkeys(problem["msg"].removeprefix("Input should be ") for problem in error.errors())
            raise ConfigError(f"{key}={value} must be {' or '.join(wanted)}{self.origin.where(key)}") from None


# ---------------------------------------------------------------------- parts
def digest(cfg: DictConfig, *parts: str) -> str:
    """Hash of parts of the configuration: the same if and only if all their values are."""
    values = [OmegaConf.to_container(cfg[part], resolve=True) for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def make(node: Any, *args: Any, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate`, but what a part says of its arguments comes out as one line.

    Raises:
        MappaError: the part's own, or a `ConfigError` for a `ValueError` or `OSError`.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, MappaError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError | OSError):
            raise ConfigError(f"{node['_target_']}: {error.__cause__}") from error
        raise
