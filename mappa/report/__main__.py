"""See a run: `python -m mappa.report run=outputs/NAME/TIME [with=outputs/NAME/OTHER] [live=8000]`.

Writes `report.html` into the run folder: the run at a glance, and its episodes down to each token's advantage. The page
needs nothing but a browser; every run writes it when it ends.

Words:
    run=FOLDER    the run; or what python -m mappa.lab left, outputs/credit_lab
    with=FOLDER   another run, to say what changed against it
    live=PORT     serve the page on this machine instead, and renew it while the run goes on
"""

from __future__ import annotations

import sys
from pathlib import Path

from mappa.command import help_text, run_guarded, split, wants_help
from mappa.errors import ConfigError

_WORDS = {"run": None, "with": None, "live": None}


def report(argv: list[str]) -> Path | None:
    """Returns the page; None once it has been served."""
    words, others, _ = split(argv, _WORDS)
    if others:
        raise ConfigError(f"unknown word '{others[0]}'; a report takes run=FOLDER, with=FOLDER and live=PORT")
    if not words["run"]:
        raise ConfigError("say which run: python -m mappa.report run=outputs/NAME/TIME")
    live = words["live"]
    if live is not None and not (live.isdigit() and 0 <= int(live) < 2**16):
        raise ConfigError(f"live={live} is no port; give e.g. live=8000")
    from mappa.report.lab_page import is_lab, write_lab_page

    if is_lab(Path(words["run"])):
        path = Path(words["run"]) / "report.html"
        write_lab_page(Path(words["run"]), path)
        return path
    from mappa.report.page import model_pieces, write_page
    from mappa.report.records import check_run, read_run

    run, other = check_run(words["run"]), check_run(words["with"]) if words["with"] else None
    if live is not None:
        from mappa.report.live import serve

        serve(run, other, int(live))
        return None
    found, path = read_run(run), run / "report.html"
    shown = write_page(found, path, read_run(other) if other else None, model_pieces(found))
    print(f"{shown} of {len(found.rows)} stored episodes")  # noqa: T201 command-line output
    return path


def main() -> None:
    if wants_help(sys.argv[1:]):
        print(help_text(__doc__, sys.argv[1:]))  # noqa: T201 command-line output
        return
    path = report(sys.argv[1:])
    if path is not None:
        print(path)  # noqa: T201 the command's last line


if __name__ == "__main__":
    run_guarded(main)
