"""Imports point one way, in no circle; every folder of the top level is one that belongs there."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import REPO

LAYERS = [
    {"sandbox"},
    {"mappa", "mappa.errors", "mappa.types", "mappa.seed"},
    {"mappa.text", "mappa.ranks", "mappa.credit", "mappa.hub", "mappa.checkpoint"},
    {"mappa.signature", "mappa.config", "mappa.command"},
    {"mappa.task", "mappa.epoch", "mappa.judge", "mappa.reward", "mappa.search", "mappa.select", "mappa.policy"},
    {"mappa.engine"},
    {"mappa.play"},
    {"mappa.team", "mappa.report"},
    {"mappa.objective", "mappa.learn"},
    {"callbacks", "mappa.serving"},
    {"mappa.checks", "mappa.train", "mappa.evaluate", "mappa.compare", "mappa.plan", "mappa.lab", "mappa.tiny"}
    | {"mappa.serve", "mappa.ask", "mappa.export", "mappa.audit", "mappa.rejudge", "mappa.bench"},
]
"""Low to high: a module imports its own layer and those before it."""
TOP = {"pyproject.toml", "README.md", "LICENSE", "CONTRIBUTING.md"} | {
    *("mappa", "conf", "sandbox", "callbacks", "tests", "outputs")
}
MODULES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("mappa", "callbacks", "sandbox")
    for path in sorted((REPO / top).rglob("*.py"))
}


def layer(module: str) -> int | None:
    """The layer that names `module`, or the nearest package around it below the root."""
    names = {name: index for index, group in enumerate(LAYERS) for name in group}
    while module not in names and module.count(".") > 1:
        module = module.rpartition(".")[0]
    return names.get(module, names.get(module.split(".")[0]) if not module.startswith("mappa") else None)


def imports(module: str) -> Iterator[str]:
    """Every module of this project that `module` imports: at its head, inside functions, and for types alone."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found = [
                f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in MODULES else origin for alias in node.names
            ]
        else:
            continue
        yield from (name for name in found if name in MODULES and name != module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str):
    mine = layer(module)
    assert mine is not None, f"{module} has no place in the layers"
    for name in imports(module):
        assert layer(name) is not None, name
        assert layer(name) <= mine, f"{module} imports {name}, which lies above it"


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: set(imports(module)) for module in MODULES}
    while leaves := [module for module, found in graph.items() if not found & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"import circle among {', '.join(sorted(graph))}"


def test_a_module_outside_every_wing_has_no_place():
    assert layer("mappa.module") is None
    assert layer("mappa.learn.module") == layer("mappa.objective.policy_gradient")
    assert layer("sandbox.kernel.boot") == 0


def test_the_top_level_holds_only_what_belongs_there():
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tops = {line.split("/")[0] for line in listed if line and not line.startswith(".")}
    assert tops <= TOP
