"""Experiment files: one file says several experiments by `base`, `[profile.NAME]` and `[matrix.AXIS.VALUE]`.

    base = "vicious_table1/mnist"    # the settings of another file, or of one cell of it, under this one's
    default_profile = "cpu"
    [profile.cpu]                    # tables of changes, one of which is chosen: `--profile full`
    [profile.full]
    [matrix.dataset.mnist]           # one table of changes a value of an axis; an address has a value of each axis,
    [matrix.dataset.cifar10]         # in the order of the axes: `vicious_table1/mnist`
    [matrix.dataset.mnist.profile.full]   # what a profile changes in that cell alone

The file lies over its base and the cell over the file, each with the chosen profile of its own already over it. A table
is changed key by key; lists, plain values, a table that names another component than the one below, and an empty table
take the place of what was there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path

from fl_privacy.settings import PlainTable, ReadTable, UnknownName, no_such

NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Chosen:
    """One experiment of a file: its plain settings, the cell and the profile they are of ('' where there is none)."""

    path: Path
    cell: str
    profile: str
    settings: PlainTable

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
    layers = [*_layers(path), *_cell(path, cell)]
    chosen, default = _profile(path, layers, profile)
    settings = _settled(layers, chosen)
    if "attack" in settings:
        settings["attacks"] = [settings.pop("attack")]
    name = "_".join(filter(None, (path.stem, *cell.split("/"), chosen if chosen != default else "")))
    return Chosen(path, cell, chosen, {"name": name, **settings})


def profiles(path: Path) -> list[str]:
    """The profiles of a file; the default one is the first."""
    layers = _layers(path)
    _, default = _profile(path, layers, None)
    return sorted(_known(layers), key=lambda name: name != default)


def cells(path: Path) -> list[str]:
    """The cells of a file's matrix, as an address names them; none where it has no matrix."""
    axes = _parsed(path).get("matrix", {})
    return ["/".join(values) for values in product(*axes.values())] if axes else []


def merged(under: ReadTable, over: ReadTable) -> PlainTable:
    """`under` with the changes of `over`, table by table."""
    result = dict(under)
    for key, value in over.items():
        if key in ("attack", "attacks"):  # two words for one setting
            result.pop("attack", None)
            result.pop("attacks", None)
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and value and not _another(before, value):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result


def _another(before: ReadTable, value: ReadTable) -> bool:
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


def _parsed(path: Path) -> PlainTable:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    axes = table.get("matrix", {})
    changes = [cell for axis in axes.values() for cell in axis.values()] if _tables(axes, 2) else []
    if not _tables(axes, 2) or not all(_tables(each.get("profile", {}), 1) for each in (table, *changes)):
        raise ValueError(f"{path}: profiles and cells are tables, [profile.full] and [matrix.dataset.mnist]")
    for name in [*table.get("profile", {}), *(value for axis in axes.values() for value in axis)]:
        if not NAME.fullmatch(name):
            raise ValueError(f"{path}: a profile or cell is named by letters, digits, '_' and '-', not '{name}'")
    return table


def _tables(value: object, depth: int) -> bool:
    """Whether this is a table of tables, so many times over."""
    return isinstance(value, Mapping) and (depth == 0 or all(_tables(each, depth - 1) for each in value.values()))


def _layers(path: Path, above: Sequence[Path] = ()) -> list[PlainTable]:
    """The tables of a file and of what it stands on, the lowest first; the names below are no affair of this file."""
    if path in above:
        raise ValueError(f"{path} stands on itself: its 'base' leads back to it")
    table = {key: value for key, value in _parsed(path).items() if key != "matrix"}
    base = table.pop("base", None)
    if base is None:
        return [table]
    if not isinstance(base, str):
        raise ValueError(f"{path}: 'base' takes the address of one other experiment, not {base!r}")
    below, cell = _find(base, path.parent)
    under = [*_layers(below, (*above, path)), *(_cell(below, cell) if cell else ())]
    return [*({key: value for key, value in each.items() if key != "name"} for each in under), table]


def _cell(path: Path, cell: str) -> list[PlainTable]:
    """The tables of one cell of a file's matrix, one an axis; none where it has no matrix.

    Raises:
        UnknownName: no such cell, or none is named where there are several.
    """
    axes = _parsed(path).get("matrix", {})
    if cell and not axes:
        raise UnknownName(f"{path.stem} is one experiment and has no '{cell}': leave that away")
    if axes and cell not in cells(path):
        raise UnknownName(
            f"{path.stem} is several experiments, by {' and '.join(axes)}{cell and f', and none is {cell!r}'}: "
            f"choose one of {', '.join(f'{path.stem}/{each}' for each in cells(path))}"
        )
    return [axis[value] for axis, value in zip(axes.values(), cell.split("/") if axes else (), strict=True)]


def _known(layers: Sequence[ReadTable]) -> list[str]:
    return list(dict.fromkeys(name for layer in layers for name in layer.get("profile", {})))


def _profile(path: Path, layers: Sequence[ReadTable], asked: str | None) -> tuple[str, str]:
    """The profile that is asked for, or else the default one, and the default one; '' where a file has none."""
    known = _known(layers)
    default = next((layer["default_profile"] for layer in reversed(layers) if "default_profile" in layer), "")
    if known and default not in known:
        raise ValueError(f"{path}: 'default_profile' says which of {', '.join(known)} is chosen unless another is")
    if asked and asked not in known:
        raise no_such(f"profile of {path.stem}", asked, known)
    return asked or default, default


def _settled(layers: Sequence[ReadTable], profile: str) -> PlainTable:
    """One table of the layers, each with its profile over it."""
    settings: PlainTable = {}
    for layer in layers:
        plain = {key: value for key, value in layer.items() if key not in ("profile", "default_profile")}
        settings = merged(merged(settings, plain), layer.get("profile", {}).get(profile, {}))
    return settings
