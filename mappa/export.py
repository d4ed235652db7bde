"""Take a team away: `python -m mappa.export run=outputs/NAME/TIME to=FOLDER [push=USER/NAME]`.

Writes the agents' adapters in PEFT's format, `team.yaml`, which `python -m mappa.serve run=FOLDER` reads, and a model
card with the command line for stock vLLM; prints that line.

Words:
    run=FOLDER       the run
    to=FOLDER        a new folder; with format= a new file
    checkpoint=      last (default), best (in validation), or a number of epochs whose checkpoint is still there
    push=USER/NAME   upload the folder to the Hugging Face hub, too (`hf auth login` first)
    private=true     as a private repository
    format=NAME      instead of the team the run's training episodes: openai or sharegpt (a JSON line for each action),
                     or atif (one for each episode)
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mappa.checkpoint import check_adapters
from mappa.command import help_text, run_guarded, split, wants_help
from mappa.config import make, register_resolvers
from mappa.errors import ConfigError
from mappa.play.episodes import stored_files
from mappa.play.rollout import adapters_of
from mappa.serving.card import base_of, card, licence_of, serve_line
from mappa.serving.stored import TEAM, Stored, stored, team_config
from mappa.serving.trajectories import FORMATS, write_trajectories

_WORDS = {"run": None, "to": None, "checkpoint": "last", "push": None, "private": "false", "format": None}


def export(argv: list[str]) -> Path:
    """Returns what was written.

    Raises:
        MappaError: one line that says what is wrong.
    """
    words, others, _ = split(argv, _WORDS)
    _check_words(words, others)
    target = Path(words["to"])
    if words["format"] is not None:
        write_trajectories(stored_files(words["run"]), target, words["format"])
        return target
    found = stored(words["run"], words["checkpoint"])
    team = make(found.cfg.team, _convert_="all")
    agents = adapters_of(team)
    check_adapters(found.adapters, agents, found.cfg.lora, found.cfg.model.path)
    _write(found, team, agents, Path(words["run"]), target)
    if words["push"]:
        print(_push(target, words["push"], private=words["private"] == "true"))  # noqa: T201 command-line output
    line = serve_line(found.cfg.model.path, agents, found.cfg.lora.rank, f"{target}/adapters")
    print(line)  # noqa: T201 command-line output
    return target


def _check_words(words: Mapping[str, str | None], others: list[str]) -> None:
    if others:
        raise ConfigError(f"unknown word '{others[0]}'; an export takes {', '.join(f'{word}=' for word in _WORDS)}")
    for word in ("run", "to"):
        if not words[word]:
            raise ConfigError("say what and where: python -m mappa.export run=outputs/NAME/TIME to=FOLDER")
    if not Path(words["run"]).is_dir():
        raise ConfigError(f"run={words['run']}: there is no such folder")
    if words["format"] not in (None, *FORMATS):
        raise ConfigError(f"format={words['format']} is unknown; available: {', '.join(FORMATS)}")
    if words["private"] not in ("true", "false"):
        raise ConfigError(f"private={words['private']} must be true or false")
    if words["push"] and words["push"].count("/") != 1:
        raise ConfigError(f"push={words['push']} names no repository; give push=USER/NAME")
    if words["push"] and words["format"]:
        raise ConfigError("push= uploads a team, format= writes trajectories; leave one of them out")
    if Path(words["to"]).exists():
        raise ConfigError(f"to={words['to']} is there already; give a new one")


def _write(found: Stored, team: Any, agents: list[str], run: Path, target: Path) -> None:
    """Into a neighbour first: what has its name is whole."""
    cfg, partial = found.cfg, target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    base = base_of(cfg.model.path)
    for agent in agents:
        shutil.copytree(found.adapters / agent, partial / "adapters" / agent)
        path = partial / "adapters" / agent / "adapter_config.json"
        saved = json.loads(path.read_text())
        path.write_text(json.dumps(saved | {"base_model_name_or_path": base}, indent=2) + "\n")
    about = "# A trained team, for `python -m mappa.serve run=THIS_FOLDER`.\n"
    (partial / TEAM).write_text(about + OmegaConf.to_yaml(team_config(found)))
    summary = run / "summary.json"
    facts = {
        "name": str(cfg.name),
        "epochs": found.epoch,
        "task": _short(cfg.task),
        "judge": _short(cfg.judge) if OmegaConf.select(cfg, "callbacks.judge") else None,
        "objective": _short(cfg.objective) if "objective" in cfg else "",
        "licence": licence_of(cfg.model.path),
        "validation": list(_validation(summary, found.epoch)) if summary.is_file() else [],
    }
    seats = {name: (seat.adapter, seat.role) for name, seat in team.agents.items()}
    (partial / "README.md").write_text(card(seats, cfg.model.path, agents, cfg.lora.rank, facts))
    partial.rename(target)


def _short(node: Any) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _validation(summary: Path, epoch: int) -> Iterator[dict[str, str]]:
    """Of the checkpoint that is taken: nothing, where that was not validated."""
    found = json.loads(summary.read_text())["validation"]
    for result in found:
        if result["epoch"] != epoch:
            continue
        untrained = next((r for r in found if r["name"] == result["name"] and r["epoch"] == 0), None)
        measures = {**result["measures"], **{k: v for k, v in result["metrics"].items() if "/" not in k}}
        for name, value in measures.items():
            before = {**untrained["measures"], **untrained["metrics"]}.get(name) if untrained else None
            yield {"set": result["name"], "measure": name, "before": _cell(before), "after": _cell(value)}


def _cell(value: Mapping[str, float] | None) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}], n = {value['n']}" if value else "-"


def _push(folder: Path, repository: str, private: bool) -> str:
    """Returns the page of the upload.

    Raises:
        ConfigError: the hub refuses, or cannot be reached.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A team trained by MAPPA"))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"push={repository}: {reason} ({folder} is written; log in with `hf auth login`)") from error


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    register_resolvers()
    print(export(sys.argv[1:]))  # noqa: T201 the command's last line


if __name__ == "__main__":
    run_guarded(main)
