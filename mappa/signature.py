"""What a constructor takes, read from its source text: nothing is imported, so it costs nothing however heavy the part.

Follows re-exports, base classes and dataclass fields. Of annotations it knows Python's own types, `typing`, the
containers of `collections.abc` and the bounds of pydantic and annotated_types; whatever else one names is `Any`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mappa.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One argument that can be given by its name."""

    annotation: Any = Any
    required: bool = False


@dataclass(frozen=True)
class Signature:
    parameters: dict[str, Parameter] = field(default_factory=dict)
    open: bool = False
    """Takes any further keyword."""


def signature(target: str) -> Signature | None:
    """Of the class or function that `target` names, e.g. `mappa.policy.model.Model`.

    Returns:
        None where the source does not tell: compiled modules, names made at run time, unusual decorators.

    Raises:
        ConfigError: there is no such module or name, or its file is no Python.
    """
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        path = _source(module)
        if path is not None:
            return _found(_Module(module, path), parts[count:])
    if importlib.util.find_spec(parts[0]) is None:
        raise ConfigError(f"there is no module '{parts[0]}' (looked for in the working folder and in PYTHONPATH, too)")
    return None


def _source(module: str) -> Path | None:
    """The file of a module, found without importing the packages around it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None:
        return None
    if not rest:
        origin = spec.origin or ""
        return Path(origin) if origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        for path in (place.with_name(place.name + ".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


class _Module:
    """A module's source, and its top-level names."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.tree = _parse(path)

    @functools.cached_property
    def names(self) -> dict[str, ast.stmt]:
        return {name: node for node in _statements(self.tree.body) for name, node in _bound(node)}

    def origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that `from ... import` reads."""
        if not node.level:
            return node.module or ""
        above = self.package.split(".")[: self.package.count(".") + 2 - node.level]
        return ".".join([*above, *([node.module] if node.module else [])])


@functools.cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those inside `if` and `try` too."""
    for node in body:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
                yield from _statements(getattr(node, name, []))


def _bound(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name, node
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, node
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], node
    elif isinstance(node, ast.Assign):
        for place in node.targets:
            if isinstance(place, ast.Name):
                yield place.id, node
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node


def _found(module: _Module, path: Sequence[str]) -> Signature | None:
    """What `path`, a name in `module` and perhaps a method of it, takes."""
    name, *rest = path
    node = module.names.get(name)
    if node is None:
        if "*" in module.names or "__getattr__" in module.names:
            return None
        raise ConfigError(f"{module.path} has no '{name}'")
    if isinstance(node, ast.ImportFrom):
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        return signature(".".join([module.origin(node), original, *rest]))
    if isinstance(node, ast.ClassDef):
        return _method(module, node, rest[0]) if rest else _constructor(module, node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not rest:
        return None if node.decorator_list else _of_function(node)
    return None


_NO_CONSTRUCTOR = ("object", "Protocol", "Generic", "ABC")
"""Bases that take no arguments."""


def _constructor(module: _Module, node: ast.ClassDef) -> Signature | None:
    for name in ("__init__", "__new__"):
        if name in {statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)}:
            return _method(module, node, name)
    if any(_last_name(decorator) == "dataclass" for decorator in node.decorator_list):
        return _dataclass(module, node)
    if node.decorator_list or node.keywords:
        return None
    for base in node.bases:
        if _last_name(base) not in _NO_CONSTRUCTOR:
            return _of_base(module, base)
    return Signature()


def _of_base(module: _Module, base: ast.expr) -> Signature | None:
    path = _dotted(base)
    return _found(module, path) if path and path[0] in module.names else None


def _dataclass(module: _Module, node: ast.ClassDef) -> Signature | None:
    """Fields of the bases first, then its own."""
    parameters: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        if _last_name(base) in _NO_CONSTRUCTOR:
            continue
        above = _of_base(module, base)
        if above is None:
            return None
        parameters |= above.parameters
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(statement.annotation) or _last_name(statement.annotation) == "KW_ONLY":
            continue
        value = statement.value
        required = value is None
        if isinstance(value, ast.Call) and _last_name(value) == "field":
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            if isinstance(given.get("init"), ast.Constant) and given["init"].value is False:
                continue
            required = not {"default", "default_factory"} & set(given)
        parameters[statement.target.id] = Parameter(_annotation(statement.annotation), required)
    return Signature(parameters)


def _method(module: _Module, node: ast.ClassDef, name: str) -> Signature | None:
    found = [s for s in node.body if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef) and s.name == name]
    if not found:
        return None
    static = any(_last_name(decorator) == "staticmethod" for decorator in found[-1].decorator_list)
    return _of_function(found[-1], skip=0 if static else 1)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, skip: int = 0) -> Signature:
    """`skip`: leading arguments that Python itself gives (self, cls)."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args]
    optional = {argument.arg for argument in named[len(named) - len(arguments.defaults) :]}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    optional |= {argument.arg for argument, default in pairs if default is not None}
    return Signature(
        {
            argument.arg: Parameter(_annotation(argument.annotation), argument.arg not in optional)
            for argument in [*named[max(skip, len(arguments.posonlyargs)) :], *arguments.kwonlyargs]
        },
        open=arguments.kwarg is not None,
    )


def _dotted(node: ast.expr) -> list[str]:
    """`a.b[T]` -> [a, b]; empty for anything else."""
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value)
        return [*above, node.attr] if above else []
    return [node.id] if isinstance(node, ast.Name) else []


def _last_name(node: ast.expr) -> str:
    found = _dotted(node.func if isinstance(node, ast.Call) else node)
    return found[-1] if found else ""


# ---------------------------------------------------------------------- annotations
_BOUNDS = ("Gt", "Ge", "Lt", "Le", "MinLen", "MaxLen", "MultipleOf")
_SIMPLE = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Path": Path}
_GENERIC = {
    "Sequence": Sequence,
    "Mapping": Mapping,
    "List": list,
    "list": list,
    "Dict": dict,
    "dict": dict,
    "tuple": tuple,
}


def _annotation(node: ast.expr | None) -> Any:
    """The type that an annotation names; `Any` where it names something that is not known here."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _annotation(ast.parse(node.value, mode="eval").body)
        return type(None) if node.value is None else Any
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_annotation(node.left), _annotation(node.right)])
    if isinstance(node, ast.Subscript):
        return _subscript(_last_name(node.value), node.slice)
    name = _last_name(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name.startswith(("Positive", "NonNegative", "Negative", "NonPositive")):
        import pydantic

        return getattr(pydantic, name, Any)
    return Any


def _subscript(name: str, inner: ast.expr) -> Any:
    parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return typing.Literal[tuple(ast.literal_eval(part) for part in parts)]
    if name == "Annotated":
        bounds = [bound for part in parts[1:] if (bound := _bound_of(part)) is not None]
        return functools.reduce(lambda kind, bound: typing.Annotated[kind, bound], bounds, _annotation(parts[0]))
    if name == "Optional":
        return _union([_annotation(parts[0]), type(None)])
    if name == "Union":
        return _union([_annotation(part) for part in parts])
    if name in _GENERIC:
        return _GENERIC[name][tuple(_annotation(part) for part in parts)]
    return Any


def _bound_of(node: ast.expr) -> Any:
    import annotated_types

    if isinstance(node, ast.Call) and _last_name(node) in _BOUNDS:
        return getattr(annotated_types, _last_name(node))(*(ast.literal_eval(argument) for argument in node.args))
    return None


def _union(kinds: Sequence[Any]) -> Any:
    return Any if Any in kinds else functools.reduce(operator.or_, kinds)
