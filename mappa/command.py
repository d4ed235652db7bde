"""What all commands share: their words, `--help`, and mistakes told in one line. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mappa.checkpoint import last_checkpoint
from mappa.config import CONF
from mappa.errors import ConfigError, MappaError

FOLDER_FLAGS = frozenset({"--config-dir", "-cd"})
HYDRA_FLAGS = FOLDER_FLAGS | {
    *("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun"),
    *("--config-path", "-cp", "--config-name", "-cn"),
}
"""Of Hydra's flags those that take a value."""
HYDRA_SWITCHES = frozenset({"--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--version"})
"""Those that take none."""
_SECRET = ("api_key", "apikey", "api_token")
"""What no configuration holds."""
_ADDED = ("experiment", "debug")
"""Groups that a composition has only where a word adds them, with a plus."""


# ---------------------------------------------------------------------- words
def split(argv: Sequence[str], words: Mapping[str, str | None]) -> tuple[dict[str, str | None], list[str], list[Path]]:
    """A command's own `key=value` words, the configuration's overrides, and the folders of `--config-dir`.

    Args:
        words: the command's own, with their defaults.

    Raises:
        ConfigError: a word that is no assignment, or a folder that is none.
    """
    found, others = dict(words), []
    for word in overrides(argv, FOLDER_FLAGS):
        key, equals, value = word.partition("=")
        if key in words and equals:
            found[key] = value
        else:
            others.append(word)
    check_words(others)
    return found, others, config_folders(argv)


def overrides(argv: Sequence[str], flags: Collection[str], switches: Collection[str] = ()) -> list[str]:
    """The words of `argv` that are neither flags, nor the value of one, nor switches.

    Raises:
        ConfigError: a flag that is none of these.
    """
    values = {index + 1 for index, word in enumerate(argv) if word in flags}
    words = [word for index, word in enumerate(argv) if index not in values]
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in {*flags, *switches}:
            raise ConfigError(f"unknown flag '{word}'; a value is set by key=value, and --help lists what there is")
    return [word for word in words if not word.startswith("-")]


def check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra would misunderstand.

    Raises:
        ConfigError: says what to write instead.
    """
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            hint = f" (did you mean +experiment={word}?)" if word in experiments() else ""
            raise ConfigError(f"'{word}' is not an assignment; write key=value{hint}")
        if key.rpartition(".")[2].lower() in _SECRET:
            raise ConfigError(
                f"'{key.lstrip('+')}': a key on the command line ends in the shell's history and in .hydra/; export it "
                "and name the variable: judge.api_key_env=NAME"
            )
        if key.endswith("api_key_env") and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}|null", value):
            raise ConfigError(f"{key} takes the name of an environment variable in capitals, not what it holds")
        if key in _ADDED:
            raise ConfigError(f"write +{key}={value}, with a plus: a configuration has no {key} unless one is added")


def check_choice(words: Sequence[str]) -> None:
    """A run needs an experiment, or at least a task and a team.

    Raises:
        ConfigError: lists the experiments.
    """
    given = {word.partition("=")[0].lstrip("+") for word in words}
    if "experiment" not in given and not {"task", "team"} <= given:
        raise ConfigError(
            f"say what to run: +experiment=NAME ({', '.join(experiments())}), or task=NAME team=NAME; --help lists all"
        )


def config_folders(argv: Sequence[str]) -> list[Path]:
    """Users' own configuration folders: `--config-dir FOLDER`.

    Raises:
        ConfigError: there is no such folder.
    """
    folders = [Path(argv[i + 1]) for i, word in enumerate(argv[:-1]) if word in FOLDER_FLAGS]
    folders += [Path(word.partition("=")[2]) for word in argv if word.startswith("--config-dir=")]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder (looked from {Path.cwd()})")
    return folders


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


# ---------------------------------------------------------------------- help
def wants_help(argv: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(argv))


def help_text(about: str, argv: Sequence[str] = ()) -> str:
    """What a command does, then the experiments and the groups that can be chosen from, users' own included."""
    folders = config_folders(argv)
    shown = experiments(folders)
    width = max(map(len, shown), default=0)
    lines = [about.strip(), "", "Experiments, +experiment=NAME:"]
    lines += [f"  {name:<{width}}  {line}" for name, line in shown.items()]
    lines += ["", "Groups, GROUP=NAME (files in conf/GROUP; yours by --config-dir FOLDER):"]
    groups = {
        path.name: options(path.name, folders)
        for place in (CONF, *folders)
        for path in sorted(place.iterdir())
        if path.is_dir() and path.name not in (*_ADDED, "paths")
    }
    width = max(map(len, groups))
    lines += [f"  {group:<{width}}  {', '.join(names)}" for group, names in sorted(groups.items()) if names]
    lines += ["", f"Smaller, for a try: +debug={'|'.join(options('debug', folders))}"]
    lines += ["Any value: e.g. data.temperature=0.7 (python -m mappa.train +experiment=NAME --cfg job prints them all)"]
    return "\n".join(lines)


def experiments(folders: Sequence[Path] = ()) -> dict[str, str]:
    """Name -> first comment line of its file."""
    found = {path.stem: path for place in (CONF, *folders) for path in sorted((place / "experiment").glob("*.yaml"))}
    return {name: _first_comment(path) for name, path in sorted(found.items())}


def _first_comment(path: Path) -> str:
    comments = (line.lstrip("# ").strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next((comment for comment in comments if comment and not comment.startswith("@package")), "")


def options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """The files of a config group."""
    return sorted({path.stem for place in (CONF, *folders) for path in (place / group).glob("*.yaml")})


# ---------------------------------------------------------------------- life
def quiet() -> None:
    """Leave the screen to our own messages: the libraries' tips and progress bars say nothing a user can act on."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "httpx2", "tensorboard", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)  # a rank died
    for message in (
        ".*It is recommended to use.*sync_dist.*",
        ".*LeafSpec.*",
        ".*transfer_batch_to_device.*",
        ".*does not have many workers.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",  # where an agent had nothing to learn
    ):
        warnings.filterwarnings("ignore", message=message)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def run_guarded(main: Callable[[], Any]) -> None:
    """Run a command; a user's mistake is one line on stderr and exit status 1, everything else a traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        main()
    except MappaError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        sys.exit(f"error: {' '.join(str(error).partition('Config search path')[0].split())}")
