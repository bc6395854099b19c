"""Experiment files: one file says several experiments by `base`, `[profile.NAME]` and `[matrix.AXIS.VALUE]`.

    base = "titcombe_table1"         # the settings of another file, or of one cell of it, under this one's
    default_profile = "cpu"
    [profile.cpu]                    # tables of changes, one of which is chosen: `--profile full`
    [profile.full]
    [matrix.dataset.mnist]           # one table of changes a value of an axis; an address has a value of each axis,
    [matrix.dataset.cifar10]         # in the order of the axes: `vicious_table1/mnist`
    [matrix.dataset.mnist.profile.full]   # what a profile changes in that cell

The file lies over its base, the cell over the file, and over all three lies the chosen profile, which is made of theirs
in the same order. A table is changed key by key; lists, plain values, and a table that names another component than the
one below take its place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from fl_privacy.settings import UnknownName, no_such

NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Chosen:
    """One experiment of a file: its plain settings, the cell and the profile they are of ('' where there is none)."""

    path: Path
    cell: str
    profile: str
    settings: dict[str, Any]

    @property
    def address(self) -> str:
        """How a command names it, but for the folder of a user's own file: 'vicious_table1/mnist'."""
        return "/".join(filter(None, (self.path.stem, self.cell)))


def shipped() -> dict[str, Path]:
    """The experiment files that come with the suite, by name."""
    folder = Path(str(files("fl_privacy.simulations"))) / "experiments"
    return {path.stem: path for path in sorted(folder.rglob("*.toml"), key=lambda path: path.stem)}


def read(source: str, profile: str | None = None) -> Chosen:
    """The experiment of an address: NAME, NAME/CELL, or the path of a TOML file, with a cell behind it or without.

    Its name is the file's, the cell's and, unless it is the default one, the profile's, unless the file says another.

    Raises:
        UnknownName: no such file, cell or profile. ValueError: not TOML, or a part of it is not as above.
    """
    path, cell = _find(source)
    table = _with_cell(path, _layered(path), cell)
    found = table.pop("profile", {})
    default = table.pop("default_profile", "")
    chosen = _profile(path, list(found), default, profile)
    settings = merged(table, found[chosen]) if chosen else table
    if "attack" in settings:
        settings["attacks"] = [settings.pop("attack")]
    name = "_".join(filter(None, (path.stem, *cell.split("/"), chosen if chosen != default else "")))
    return Chosen(path, cell, chosen, {"name": name, **settings})


def profiles(path: Path) -> list[str]:
    """The profiles of a file; the default one is the first."""
    table = _layered(path)
    default = table.get("default_profile")
    return sorted(table.get("profile", {}), key=lambda name: name != default)


def cells(path: Path) -> list[str]:
    """The cells of a file's matrix, as an address names them; none where it has no matrix."""
    axes = _layered(path).get("matrix", {})
    return ["/".join(values) for values in product(*axes.values())] if axes else []


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the changes of `over`, table by table."""
    result = dict(under)
    for key, value in over.items():
        if key in ("attack", "attacks"):  # two words for one setting
            result.pop("attack", None)
            result.pop("attacks", None)
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not _another(before, value):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result


def _another(before: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether `value` names another component than `before`, whose settings then mean nothing to it."""
    names = before.get("name"), value.get("name")
    return None not in names and names[0] != names[1]


def _find(source: str, beside: Path = Path()) -> tuple[Path, str]:
    """The file and the cell of an address; paths are relative to `beside`."""
    known = shipped()
    name, _, cell = source.partition("/")
    if name in known:
        return known[name], cell
    head, ending, tail = source.partition(".toml/")
    path, cell = beside / f"{head}{ending.rstrip('/')}", tail
    if not path.is_file():
        raise UnknownName(f"{no_such('experiment', source, list(known))} Or give the path of a TOML file.")
    return path, cell


def _parsed(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    axes = table.get("matrix", {})
    if not _tables(table.get("profile", {})) or not _tables(axes) or not all(map(_tables, axes.values())):
        raise ValueError(f"{path}: profiles and cells are tables, [profile.full] and [matrix.dataset.mnist]")
    for name in [*table.get("profile", {}), *(value for axis in axes.values() for value in axis)]:
        if not NAME.fullmatch(name):
            raise ValueError(f"{path}: a profile or cell is named by letters, digits, '_' and '-', not '{name}'")
    return table


def _tables(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values())


def _layered(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """A file's table over that of its base, whose name and matrix are its own affair."""
    if path in above:
        raise ValueError(f"{path} stands on itself: its 'base' leads back to it")
    table = _parsed(path)
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ValueError(f"{path}: 'base' takes the address of one other experiment, not {base!r}")
    below, cell = _find(base, path.parent)
    under = _layered(below, (*above, path))
    under = _with_cell(below, under, cell) if cell else under
    return merged({key: value for key, value in under.items() if key not in ("name", "matrix")}, table)


def _with_cell(path: Path, table: Mapping[str, Any], cell: str) -> dict[str, Any]:
    """A file's table with the changes of one cell of its matrix.

    Raises:
        UnknownName: no such cell, or none is named where there are several.
    """
    axes = table.get("matrix", {})
    chosen = tuple(cell.split("/")) if cell else ()
    made = {key: value for key, value in table.items() if key != "matrix"}
    if cell and not axes:
        raise UnknownName(f"{path.stem} is one experiment and has no '{cell}': leave that away")
    if axes and chosen not in (known := list(product(*axes.values()))):
        raise UnknownName(
            f"{path.stem} is several experiments, one a {' and a '.join(axes)}{cell and f', and none is {cell!r}'}: "
            f"choose one of {', '.join('/'.join((path.stem, *values)) for values in known)}"
        )
    for axis, value in zip(axes.values(), chosen, strict=True):
        made = merged(made, axis[value])
    return made


def _profile(path: Path, known: Sequence[str], default: str, asked: str | None) -> str:
    """The profile that is asked for, or else the default one; '' where a file has none."""
    if known and default not in known:
        raise ValueError(f"{path}: 'default_profile' says which of {', '.join(known)} is chosen unless another is")
    if asked and asked not in known:
        raise no_such(f"profile of {path.stem}", asked, list(known))
    return asked or default
