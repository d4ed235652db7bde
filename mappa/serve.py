"""Use a team: `python -m mappa.serve run=FOLDER [port=8000]` puts it behind an OpenAI-compatible endpoint.

`model=team` is the whole team, its kernels included, and answers with its final text; `model=SEAT` is one agent.
Streaming tells the team's steps as reasoning; `extra_body={"trajectory": true}` gives back every action.

Words:
    run=FOLDER      a run, or what `python -m mappa.export` wrote
    checkpoint=     of a run: last (default), best (in validation), or a number of epochs
    port=8000       where it listens
    host=127.0.0.1  this machine alone; any other address is reached by others: set a key then
    limit=256       answers at once; past them 429
    timeout=600     seconds an answer may take
    anything else   a configuration override, e.g. engine=vllm, data.temperature=0.6

The environment variable MAPPA_API_KEY, where it is set, holds the key that clients must bring.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress

from mappa.command import help_text, run_guarded, split, wants_help
from mappa.config import register_resolvers
from mappa.errors import ConfigError
from mappa.evaluate import override
from mappa.serving.served import check_stored, served
from mappa.serving.stored import Stored, stored

KEY = "MAPPA_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost")
_WORDS = {
    **{"run": None, "checkpoint": "last"},
    **{"port": "8000", "host": LOOPBACK[0], "limit": "256", "timeout": "600"},
}

log = logging.getLogger(__name__)


def chosen_team(argv: list[str], own: Mapping[str, str | None], usage: str) -> tuple[dict[str, str | None], Stored]:
    """A command's own words, and the team they name, checked.

    Raises:
        MappaError: one line that says what is wrong.
    """
    words, overrides, folders = split(argv, own)
    if not words["run"]:
        raise ConfigError(f"say which team: {usage}")
    found = stored(words["run"], words["checkpoint"])
    override(found.cfg, overrides, folders)
    check_stored(found)
    return words, found


def serve(argv: list[str]) -> None:
    """Until it is interrupted.

    Raises:
        MappaError: one line that says what is wrong.
    """
    words, found = chosen_team(argv, _WORDS, "python -m mappa.serve run=outputs/NAME/TIME")
    for word, largest in (("port", 65535), ("limit", 100_000), ("timeout", 86_400)):
        if not (words[word].isdigit() and 1 <= int(words[word]) <= largest):
            raise ConfigError(f"{word}={words[word]} must be a whole number from 1 to {largest}")
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise ConfigError("serving needs fastapi and uvicorn: pip install 'mappa[serve]'")
    import uvicorn

    from mappa.command import quiet
    from mappa.serving.app import Limits, make_app

    quiet()
    key, host, port = os.environ.get(KEY) or None, words["host"], int(words["port"])
    if key is None and host not in LOOPBACK:
        log.warning("host=%s without a key: whoever reaches it can use it, and run code; set %s", host, KEY)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ConfigError(f"host={host} port={port}: {error.strerror or error}; take another") from error
    limits = Limits(int(words["limit"]), float(words["timeout"]))
    hosts = LOOPBACK if host in LOOPBACK else ("*",)

    async def until_stopped() -> None:
        async with served(found) as team:
            app = make_app(lambda: nullcontext(team), limits, key, hosts)
            print(f"http://{host}:{port}/v1, model=team (Ctrl-C ends it)", flush=True)  # noqa: T201 command-line output
            await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()

    with suppress(KeyboardInterrupt):
        asyncio.run(until_stopped())


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    register_resolvers()
    serve(sys.argv[1:])


if __name__ == "__main__":
    run_guarded(main)
