"""Imports point one way; every folder of the top level is one that belongs there."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO

LAYERS = [
    {"sandbox"},
    {"mappa.errors", "mappa.types", "mappa.text", "mappa.seed", "mappa.ranks", "mappa.loop"},
    {"mappa.task", "mappa.engine", "mappa.judge", "mappa.credit", "mappa.loss", "mappa.batch", "mappa.metrics"}
    | {"mappa.chat", "mappa.episodes"},
    {"mappa.agent", "mappa.team"},
    {"mappa.rollout"},
    {"mappa.lora", "mappa.model", "mappa.policy", "mappa.sharded", "mappa.footprint", "mappa.module", "mappa.data"},
    {"callbacks"},
    {"mappa.config", "mappa.train", "mappa.evaluate", "mappa.compare", "mappa.plan", "mappa.tiny"},
]
FILES = sorted(p for top in ("mappa", "callbacks", "sandbox") for p in (REPO / top).rglob("*.py"))


def layer(module: str) -> int | None:
    names = {name: index for index, group in enumerate(LAYERS) for name in group}
    found = [names[n] for n in names if module == n or module.startswith(n + ".")]
    return found[0] if found else None


def runtime_imports(tree: ast.AST) -> set[str]:
    """Imported modules, leaving out `if TYPE_CHECKING:` blocks."""
    found: set[str] = set()
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        stack += list(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_imports_point_down(path: Path):
    module = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
    mine = layer(module)
    if module in ("mappa",):
        return
    assert mine is not None, f"{module} has no place in the layers"
    for name in runtime_imports(ast.parse(path.read_text())):
        if name.split(".")[0] in ("mappa", "callbacks", "sandbox"):
            assert layer(name) is not None, name
            assert layer(name) <= mine, f"{module} imports {name}, which lies above it"
            if module.startswith("mappa.") and mine < len(LAYERS) - 1:
                assert not name.startswith("callbacks")


def test_the_top_level_holds_only_what_belongs_there():
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tops = {line.split("/")[0] for line in listed if line and not line.startswith(".")}
    assert tops <= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "mappa",
        "conf",
        "sandbox",
        "callbacks",
        "tests",
        "outputs",
    }
