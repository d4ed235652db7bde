"""Ask a team: `python -m mappa.ask run=FOLDER "question"` prints its conversation, and at the end its answer.

Words:
    run=FOLDER     a run, or what `python -m mappa.export` wrote
    checkpoint=    of a run: last (default), best (in validation), or a number of epochs
    seed=0         another seed, another conversation
    anything else  a configuration override, e.g. engine=vllm, data.temperature=0.6
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import replace

from mappa.command import help_text, quiet, run_guarded, wants_help
from mappa.config import register_resolvers
from mappa.errors import ConfigError
from mappa.serve import chosen_team
from mappa.serving.served import served
from mappa.serving.stored import Stored
from mappa.types import Action

_WORDS = {"run": None, "checkpoint": "last", "seed": "0"}
_WORD = re.compile(r"[+~]?[\w.@/]+=\S*|-.*")
"""An assignment or a flag; anything else is the question."""
_USAGE = 'python -m mappa.ask run=outputs/NAME/TIME "question"'


def ask(argv: list[str]) -> str:
    """Returns the team's answer.

    Raises:
        MappaError: one line that says what is wrong.
    """
    questions = [word for word in argv if not _WORD.fullmatch(word)]
    words, found = chosen_team([word for word in argv if _WORD.fullmatch(word)], _WORDS, _USAGE)
    if len(questions) != 1 or not questions[0].strip():
        raise ConfigError(f"ask one question, in quotes: {_USAGE}")
    if not words["seed"].isdigit():
        raise ConfigError(f"seed={words['seed']} must be a whole number")
    quiet()
    return asyncio.run(_played(found, questions[0], int(words["seed"])))


async def _played(found: Stored, question: str, seed: int) -> str:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)

    async def show(action: Action) -> None:
        """Agents' text is data: no markup of it is obeyed."""
        console.print(Text(action.seat, style="bold"), Text(f"{len(action.completion_ids)} tokens", style="dim"))
        console.print(Text(action.text.strip()))
        if action.tool is not None:
            console.print(Text(f"ran it: {action.tool.status}", style="dim"))
            console.print(Text(action.tool.text.strip(), style="cyan"))
        console.print()

    async with served(found) as team:
        reply = await team.play(question, replace(team.way, seed=seed), show)
    return reply.text


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    register_resolvers()
    print(ask(sys.argv[1:]))  # noqa: T201 the command's last line


if __name__ == "__main__":
    run_guarded(main)
