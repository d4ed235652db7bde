"""The laboratory's page: what every grid that was run shows, its tables and pictures in one file."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from mappa.errors import ConfigError


def is_lab(folder: Path) -> bool:
    """Whether `python -m mappa.lab` wrote its tables there."""
    return any(path.with_suffix(".svg").is_file() for path in folder.glob("*.md"))


def write_lab_page(folder: Path, path: Path) -> None:
    """One section a grid, from the `GRID.md` and `GRID*.svg` that `mappa.lab` left.

    Raises:
        ConfigError: it left none.
    """
    grids = [_grid(table) for table in sorted(folder.glob("*.md"))]
    if not grids:
        raise ConfigError(f"{folder} holds no tables of the laboratory; run python -m mappa.lab first")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mappa.report", "template"), autoescape=True, undefined=StrictUndefined
    )
    style = (files("mappa.report") / "template" / "page.css").read_text(encoding="utf-8")
    path.write_text(environment.get_template("lab.html").render(folder=str(folder), grids=grids, style=style), "utf-8")


def _grid(table: Path) -> dict[str, Any]:
    text, _, said = table.read_text(encoding="utf-8").partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    pictures = sorted(table.parent.glob(f"{table.stem}.svg")) + sorted(table.parent.glob(f"{table.stem}-*.svg"))
    return {
        "name": table.stem,
        "heads": rows[0],
        "rows": rows[2:],
        "said": said.strip().splitlines(),
        "pictures": [base64.b64encode(picture.read_bytes()).decode() for picture in pictures],
    }
