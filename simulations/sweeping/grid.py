"""Sweep files: one experiment, a grid of changes of it, and seeds, as a list of cells. Needs no torch.

    experiment = "quickstart"            # an address, relative to this file, or a table of settings
    profile = "cpu"                      # which profile of it, if not the default one
    set = ["rounds=60"]                  # changes for all cells, in the words of --set
    seeds = [0, 1, 2]                    # or "0..2"

    [grid]                               # addresses, in the words of --set, each with the values that it takes
    model = ["convnet", "lenet_dlg"]
    "protocol.secure_aggregation" = [false, true]
    defence = ["none", { name = "clip", norm = { each = [0.1, 1.0] } }]

The cells are all combinations. `defence` takes one chain a value: a name, a table, or a list of these. A table
`{ each = [...] }` anywhere inside a value makes one value for each of its entries: the strengths of a defence.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import product
from pathlib import Path

from fl_privacy.settings import PlainTable, ReadTable, UnknownName, no_such
from fl_privacy.simulations.config.changes import change, override
from fl_privacy.simulations.config.early import check_names, check_numbers, plain
from fl_privacy.simulations.config.files import read
from fl_privacy.simulations.experiment.components import component

KEYS = ("name", "experiment", "profile", "set", "seeds", "grid")
MOST_CELLS = 10_000
EACH = "each"
LABELLED = ("defence", "training_defences", "inference_defences", "variants")
"""The addresses whose values a run's own label of a condition tells already."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its plain settings, its seed, and which value it has of each address, in words."""

    settings: PlainTable
    seed: int
    choices: Mapping[str, str]

    @property
    def words(self) -> str:
        """Such as 'defence=clip(norm=0.1), model=convnet, seed=0'."""
        return ", ".join([*(f"{key}={value}" for key, value in self.choices.items()), f"seed={self.seed}"])

    @property
    def setting(self) -> str:
        """What tells it from the other cells beside attack, defence and seed; '' where nothing does."""
        return "; ".join(f"{key}={value}" for key, value in self.choices.items() if _is_setting(key))

    @property
    def attack(self) -> str:
        """What tells its attack from those of other cells, beside the attack's own label; '' where nothing does."""
        changes = {key: value for key, value in self.choices.items() if _head(key) == "attack" and key != "attack"}
        return ", ".join(f"{key.partition('.')[2]}={value}" for key, value in changes.items())


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says it: what it is called, its cells, and the values of every address in words."""

    name: str
    cells: tuple[Cell, ...]
    grid: Mapping[str, Sequence[str]]
    seeds: Sequence[int]


def read_sweep(source: str | Path) -> Sweep:
    """The sweep of a TOML file, or of one that comes with the suite, by its name.

    Raises:
        UnknownName: no such file, experiment, component or setting. ValueError: a value that does not fit, in whichever
            cell.
    """
    path = _find(str(source))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    for key in table:
        if key not in KEYS:
            raise no_such("key of a sweep file", key, list(KEYS))
    if "experiment" not in table:
        raise ValueError(f"{path} has no 'experiment': the address of one, or a table of its settings")
    settings = _base(table["experiment"], table.get("profile"), path.parent)
    changes = table.get("set", [])
    if not isinstance(changes, list) or not all(isinstance(each, str) for each in changes):
        raise ValueError(f"{path}: 'set' takes a list of changes such as [\"rounds=60\"], not {changes!r}")
    seeds = parse_seeds(table["seeds"]) if "seeds" in table else None
    return make_sweep(str(table.get("name", path.stem)), override(settings, changes), table.get("grid", {}), seeds)


def make_sweep(
    name: str, settings: ReadTable, grid: Mapping[str, object] | None = None, seeds: Sequence[int] | None = None
) -> Sweep:
    """The sweep over all combinations of the grid's values and the seeds, each cell checked as far as names go.

    Raises:
        UnknownName, ValueError: as `read_sweep`; the message says which cell it is.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"'name' becomes a folder: letters, digits, '_', '-' and '.' only, not {name!r}")
    axes = {address: _values(address, values) for address, values in _table("grid", grid or {}).items()}
    if seeds is not None and "seed" in axes:
        raise ValueError("the seeds are named twice: in 'seeds', and as 'seed' in the grid. Leave the latter out")
    chosen = list(seeds) if seeds is not None else parse_seeds([value for _, value in axes.pop("seed", [])] or [0])
    count = len(chosen)
    for values in axes.values():
        count *= len(values)
    if count > MOST_CELLS:
        raise ValueError(f"that are {count} cells, and {MOST_CELLS} are the most: leave out some values")
    plain_settings = {key: value for key, value in settings.items() if key not in ("published", "attack")}
    if "attack" in settings:
        plain_settings["attacks"] = [settings["attack"]]
    cells = [
        _cell(plain_settings, dict(zip(axes, combination, strict=True)), seed)
        for combination in product(*axes.values())
        for seed in chosen
    ]
    _check_different(cells)
    return Sweep(name, tuple(cells), {key: [word for word, _ in values] for key, values in axes.items()}, chosen)


def parse_seeds(value: object) -> list[int]:
    """Seeds from a list of whole numbers or a text: '0..4' (both ends), '0,1,2', or both mixed.

    Raises:
        ValueError: something else, none, one twice or one below 0.
    """
    wrong = f"seeds are written 0..4 or 0,1,2, or as a list [0, 1, 2], not {value!r}"
    if isinstance(value, str):
        seeds: list[object] = []
        for part in value.split(","):
            found = re.fullmatch(r"\s*(\d{1,9})\s*(?:\.\.\s*(\d{1,9})\s*)?", part)
            if found is None:
                raise ValueError(wrong)
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last < first + MOST_CELLS:
                raise ValueError(f"{wrong}: from the lower to the higher, {MOST_CELLS} at most")
            seeds += range(first, last + 1)
    else:
        seeds = value if isinstance(value, list) else []
    checked = [each for each in seeds if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    if not checked or len(checked) != len(seeds) or len(set(checked)) != len(checked):
        raise ValueError(f"{wrong}; at least one, none below 0 and none twice")
    return checked


def in_words(value: object) -> str:
    """A value of the grid as a label: 'none', 'clip(norm=0.1) + gaussian_noise(scale=1.0)', '5'."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={in_words(each)}" for key, each in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name}({inside})" if inside and name else name or inside
    if isinstance(value, list):
        return " + ".join(map(in_words, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def spread(value: object) -> Iterator[object]:
    """The values that a value with tables `{each = [...]}` in it stands for, in their order; itself without any."""
    if isinstance(value, Mapping):
        if set(value) == {EACH}:
            if not isinstance(value[EACH], list) or not value[EACH]:
                raise ValueError(f"'{EACH}' takes a list of at least one value, not {value[EACH]!r}")
            for one in value[EACH]:
                yield from spread(one)
            return
        for combination in product(*(list(spread(each)) for each in value.values())):
            yield dict(zip(value, combination, strict=True))
    elif isinstance(value, list):
        yield from (list(each) for each in product(*(list(spread(each)) for each in value)))
    else:
        yield value


def _find(source: str) -> Path:
    folder = Path(str(files("fl_privacy.simulations"))) / "sweeps"
    known = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    path = known.get(source, Path(source))
    if not path.is_file():
        raise UnknownName(f"{no_such('sweep', source, list(known))} Or give the path of a TOML file.")
    return path


def _base(experiment: object, profile: object, beside: Path) -> PlainTable:
    if isinstance(experiment, Mapping):
        if profile is not None:
            raise ValueError("'profile' chooses one of an experiment file, and 'experiment' is a table here")
        return dict(experiment)
    if not isinstance(experiment, str) or not (profile is None or isinstance(profile, str)):
        raise ValueError("'experiment' takes an address or a table of settings, 'profile' the name of one")
    near = beside / experiment  # a file beside this one goes before a file of that name in the working directory
    address = str(near) if near.is_file() or ".toml/" in experiment else experiment
    return read(address, profile).settings


def _values(address: str, values: object) -> list[tuple[str, object]]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"'{address}' in the grid takes a list of at least one value, not {values!r}")
    found = [one for value in values for one in spread(value)]
    if address == "defence":
        found = [_chain(value) for value in found]
    words = [in_words(value) for value in found]
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise ValueError(f"'{address}' has the same value twice in the grid: {', '.join(twice)}")
    return list(zip(words, found, strict=True))


def _chain(value: object) -> list[PlainTable]:
    members = value if isinstance(value, list) else [] if value == "none" else [value]
    return [component("defence", each) for each in members]


def _cell(settings: PlainTable, chosen: Mapping[str, tuple[str, object]], seed: int) -> Cell:
    words = {address: word for address, (word, _) in chosen.items()}
    made: PlainTable = {**settings, "seed": seed}
    cell = Cell(made, seed, words)
    try:
        for address, (_, value) in chosen.items():
            made = {**made, "training_defences": [value]} if address == "defence" else change(made, address, value)
        experiment = plain(made)
        check_numbers(experiment)
        check_names(experiment)
    except UnknownName as error:
        raise UnknownName(f"in the cell '{cell.words}': {error}") from error
    except ValueError as error:
        raise ValueError(f"in the cell '{cell.words}': {error}") from error
    return replace(cell, settings=made)


def _check_different(cells: Sequence[Cell]) -> None:
    """Whether no two cells are the same run: their numbers would count twice."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(json.dumps(cell.settings, sort_keys=True, default=str), cell)
        if other is not cell:
            raise ValueError(f"the cells '{other.words}' and '{cell.words}' are the same run: leave one out")


def _table(key: str, value: object) -> Mapping[str, object]:
    """The grid with the addresses of its tables written out: [grid.protocol] with steps is 'protocol.steps'."""
    if not isinstance(value, Mapping):
        raise ValueError(f"'{key}' takes a table of addresses, each with a list of values, not {value!r}")
    found: dict[str, object] = {}
    for address, values in value.items():
        if isinstance(values, Mapping):
            found |= {f"{address}.{rest}": each for rest, each in _table(address, values).items()}
        else:
            found[address] = values
    return found


def _head(address: str) -> str:
    return "attack" if address.split(".")[0] == "attacks" else address.split(".")[0]


def _is_setting(address: str) -> bool:
    return _head(address) != "attack" and address.split(".")[0] not in LABELLED
