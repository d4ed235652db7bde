"""Constructor signatures read from source: equal to what Python itself says, without importing anything."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from mappa.config import CONF
from mappa.errors import ConfigError
from mappa.signature import Parameter, signature
from tests.conftest import REPO

SOURCE = """
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Optional, Protocol

from .other import Base, helper as renamed
import compiled.thing

if TYPE_CHECKING:
    from annotated_types import Ge, Interval, Le
    from pydantic import PositiveInt


class Plain:
    def __init__(self, a: int, b: float = 1.0, *, c: "str | None" = None, d: PositiveInt): ...

    @classmethod
    def other(cls, path: Path, **rest): ...

    @staticmethod
    def free(x: list[int]): ...


@dataclass(frozen=True)
class Fields(Base):
    size: Annotated[int, Ge(1), Le(9)]
    share: Annotated[float, Interval(gt=0, le=1)] = 0.5
    kind: Literal["a", "b"] | None = None
    LIMIT: ClassVar[int] = 3
    names: list[str] = field(default_factory=list)
    made: int = field(init=False)
    _: dataclasses.KW_ONLY
    late: Optional[Unknown] = None


class Child(Plain): ...
class Bare(Protocol): ...
class FromElsewhere(compiled.thing.Base): ...
alias = Plain
def factory(x: bool, /, y: Callable[..., int] = None, *rest, **more): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that raises when it is imported; returns its name."""
    folder = tmp_path / "readable"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .parts import Plain as Exported\nraise RuntimeError('imported')\n")
    (folder / "parts.py").write_text(SOURCE)
    (folder / "other.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Base:\n    first: str\ndef helper(z): ...\n"
    )
    (folder / "broken.py").write_text("x = 1\nclass Half(:\n")
    (folder / "loose").mkdir()
    (folder / "loose" / "deep.py").write_text("class Deep:\n    def __init__(self, x=1): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "readable"


def read(package: str, name: str) -> dict[str, Parameter]:
    return signature(f"{package}.{name}").parameters


def test_arguments_defaults_and_annotations(package: str):
    found = read(package, "parts.Plain")
    assert {name: p.required for name, p in found.items()} == {"a": True, "b": False, "c": False, "d": True}
    assert (found["a"].annotation, found["b"].annotation, found["c"].annotation) == (int, float, str | None)
    assert read(package, "Exported") == found, "a re-export is followed"
    assert read(package, "parts.Child") == found, "an inherited constructor is found"
    assert list(read(package, "parts.Plain.other")) == ["path"]
    assert signature(f"{package}.parts.Plain.other").open
    assert read(package, "parts.Plain.free") == {"x": Parameter(list[int], True)}
    assert read(package, "parts.renamed") == {"z": Parameter(Any, True)}
    assert read(package, "parts.Bare") == {}
    assert read(package, "loose.deep.Deep") == {"x": Parameter()}, "a folder without __init__.py is a package too"
    found = signature(f"{package}.parts.factory")
    assert found.open
    assert found.parameters == {"y": Parameter()}, "what can only be given by position is no key"


def test_fields_of_a_dataclass(package: str):
    found = read(package, "parts.Fields")
    assert list(found) == ["first", "size", "share", "kind", "names", "late"]
    assert [name for name, p in found.items() if p.required] == ["first", "size"]
    assert found["kind"].annotation == Literal["a", "b"] | None
    assert found["late"].annotation is Any


def test_what_source_does_not_tell_is_left_to_the_import(package: str):
    assert signature(f"{package}.parts.FromElsewhere") is None
    assert signature(f"{package}.parts.alias") is None
    assert signature("math.sqrt") is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.Class", "there is no module 'nowhere'"),
        ("readable.parts.Nope", r"parts\.py has no 'Nope'"),
        ("readable.broken.Half", r"broken\.py, line 2"),
        ("readable.missing.Class", r"has no 'missing'"),
    ],
)
def test_what_is_not_there_is_one_line(package: str, target: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        signature(target)
    assert "\n" not in str(caught.value)


def shipped_targets() -> set[str]:
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update([node["_target_"]] if "_target_" in node else [])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    for path in CONF.rglob("*.yaml"):
        walk(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    return found


@pytest.mark.parametrize("target", sorted(shipped_targets()))
def test_every_shipped_target_is_read_as_python_sees_it(target: str):
    found = signature(target)
    assert found is not None, "nothing that ships is left to the late check"
    module, _, name = target.rpartition(".")
    if target.startswith("deepspeed") or name == "DeepSpeedStrategy":
        return
    real = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    named = {p.name: p.default is p.empty for p in real if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    assert {name: p.required for name, p in found.parameters.items()} == named
    assert found.open == any(p.kind is p.VAR_KEYWORD for p in real)


def test_reading_imports_nothing_heavy():
    code = (
        "import sys; from mappa.signature import signature\n"
        "for target in ('lightning.pytorch.Trainer', 'mappa.learn.module.TeamModule', 'mappa.engine.hf.HFEngine'):\n"
        "    assert signature(target).parameters\n"
        "print({'torch', 'lightning', 'transformers', 'vllm', 'mappa.learn.module'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
