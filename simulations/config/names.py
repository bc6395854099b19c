"""What the suite's own registries hold, read from its sources: a wrong name is told before torch is imported."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

FOLDERS = ("attacks", "data", "defences", "models")


@dataclass(frozen=True)
class Definition:
    """Where a registered class or function is defined."""

    path: Path
    node: ast.ClassDef | ast.FunctionDef


@cache
def registered() -> Mapping[str, Mapping[str, Definition]]:
    """What is decorated by `REGISTRY.register("name")`, by the registry's variable and the name; nothing is imported.

    Empty where the package has no sources.
    """
    found: dict[str, dict[str, Definition]] = {}
    for folder in FOLDERS:
        for path in sorted((Path(str(files("fl_privacy"))) / folder).rglob("*.py")):
            if ".register(" in path.read_text(encoding="utf-8"):
                for node in _parsed(path).body:
                    if isinstance(node, ast.ClassDef | ast.FunctionDef):
                        for registry, name in _entered(node):
                            found.setdefault(registry, {})[name] = Definition(path, node)
    return found


def settings_of(definition: Definition, keyword_only: bool = False) -> list[str]:
    """The settings of a dataclass, those that it inherits first, or of a function, without executing anything.

    `keyword_only` leaves out what a function is given by position.
    """
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        return [each.arg for each in [*(() if keyword_only else node.args.args), *node.args.kwonlyargs]]
    inherited = [
        base for each in node.bases if isinstance(each, ast.Name) and (base := _find(definition.path, each.id))
    ]
    own = [each for each in node.body if isinstance(each, ast.AnnAssign)] if _is_dataclass(node) else []
    names = [name for base in reversed(inherited) for name in settings_of(base)]
    return list(dict.fromkeys([*names, *(each.target.id for each in own if _is_setting(each))]))  # type: ignore[union-attr]


def _entered(node: ast.ClassDef | ast.FunctionDef) -> list[tuple[str, str]]:
    """The (registry, name) pairs of a definition's decorators."""
    return [
        (call.func.value.id, str(call.args[0].value))
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and isinstance(call.func.value, ast.Name)
        and isinstance(call.args[0], ast.Constant)
    ]


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def _is_setting(field: ast.AnnAssign) -> bool:
    """Whether an annotated name of a dataclass's body is an argument of its constructor."""
    made = field.value.keywords if isinstance(field.value, ast.Call) else []
    hidden = any(each.arg == "init" and ast.unparse(each.value) == "False" for each in made)
    return not hidden and "ClassVar" not in ast.unparse(field.annotation)


def _find(path: Path, name: str) -> Definition | None:
    """The class that a file of the suite knows by `name`; None where it comes from elsewhere."""
    for node in _parsed(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Definition(path, node)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fl_privacy."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(_file_of(node.module), alias.name)
    return None


def _file_of(module: str) -> Path:
    """The file of a module of the suite; `find_spec` would import the packages above it."""
    path = Path(str(files("fl_privacy"))).joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
