"""The house: who may import whom, where names are looked up, how large a file may grow; type-only imports count."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOPS = {"fl_privacy": "fl_privacy", "strategies": "fl_privacy.strategies", "simulations": "fl_privacy.simulations"}
LAYERS = {
    "fl_privacy": (
        ("atomic", "checkpoints", "seeding", "settings", "registry", "observation", "optimiser_state", "weights"),
        ("data", "metrics", "models"),
        ("defences",),
        ("federated", "split", "joint_training", "accounting"),
        ("attacks",),
        ("evaluation", "identification", "protocol_check", "sanity", "testing"),
    ),
    "fl_privacy.strategies": (
        ("guard", "grid", "records", "wrapping"),
        ("recorder",),
        ("state",),
        ("resumable", "mods", "observer", "guarded", "inference", "federated", "split"),
    ),
    "fl_privacy.simulations": (
        ("progress", "results", "experiment", "backends"),
        ("federation",),
        ("channels",),
        ("bounds", "config", "prices"),
        ("scoring",),
        ("report",),
        ("run", "auditing"),
        ("sweeping",),
        ("flower_app", "listing", "doctor"),
        ("cli",),
    ),
}
"""From the ground upwards: a module imports from its own row and from those above it in this table alone."""
LOOK_UPS = {"ATTACKS", "DEFENCES", "MODELS", "DATASETS", "PARTITIONS", "CHANNELS"}
MAY_LOOK_UP = ("fl_privacy.simulations.config", "fl_privacy.simulations.listing", "fl_privacy.simulations.doctor")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60


def modules(root):
    """The files of the three packages by their import name."""
    found = {}
    for folder, package in TOPS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


def imports(name, path, known):
    """The modules of the three packages that a file imports, at any depth of its code and for types alone."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {each if (each := f"{base}.{alias.name}") in known else base for alias in node.names}
    return (found & set(known)) - {name}


def graph(root):
    known = modules(root)
    return {name: imports(name, path, known) for name, path in known.items()}


def circles(edges):
    """The sets of modules that import each other, directly or through others."""
    reach = {name: set(targets) for name, targets in edges.items()}
    for middle in edges:
        for name in edges:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in edges
        if name in reach[name]
    }


def place(name):
    """The package of a module, its row in LAYERS, and None for what stands in no row (a package's own door)."""
    package = max((each for each in LAYERS if f"{name}.".startswith(f"{each}.")), key=len)
    part = name.removeprefix(package).lstrip(".").partition(".")[0]
    row = next((index for index, parts in enumerate(LAYERS[package]) if part in parts), None)
    return package, row


def upward(edges):
    """(module, imported module) for every import against the layers."""
    order = list(LAYERS)
    wrong = set()
    for name, targets in edges.items():
        package, row = place(name)
        for target in targets:
            other, level = place(target)
            above = order.index(other) > order.index(package) or (
                other == package and row is not None and (level is None or level > row)
            )
            if above:
                wrong.add((name, target))
    return wrong


def test_no_module_imports_itself_through_others():
    assert circles(graph(ROOT)) == set()


def test_no_import_runs_upwards():
    assert upward(graph(ROOT)) == set()


def test_every_module_has_its_layer():
    doors = set(LAYERS)
    assert {name for name in modules(ROOT) if place(name)[1] is None} - doors == set()


BAD = {
    "a circle": {
        "fl_privacy/seeding.py": "import fl_privacy.weights",
        "fl_privacy/weights.py": "import fl_privacy.seeding",
    },
    "a circle of types": {
        "fl_privacy/seeding.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .weights import W",
        "fl_privacy/weights.py": "from fl_privacy.seeding import stream",
    },
    "a circle inside a function": {
        "fl_privacy/seeding.py": "def f():\n    from . import weights",
        "fl_privacy/weights.py": "from .seeding import stream",
    },
    "upwards between packages": {
        "fl_privacy/seeding.py": "from fl_privacy.strategies import guard",
        "strategies/guard.py": "",
    },
    "upwards inside one": {"simulations/federation.py": "from .scoring import score", "simulations/scoring.py": ""},
}


@pytest.mark.parametrize("case", BAD)
def test_the_rules_see(case, tmp_path):
    for name, text in BAD[case].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).parent.joinpath("__init__.py").touch()
        (tmp_path / name).write_text(text)
    edges = graph(tmp_path)
    assert bool(circles(edges)) == case.startswith("a circle")
    assert bool(upward(edges)) == case.startswith("upwards")


def test_names_are_looked_up_in_config_alone():
    wrong = {
        (name, alias.name)
        for name, path in modules(ROOT).items()
        if name.startswith(("fl_privacy.simulations", "fl_privacy.strategies")) and not name.startswith(MAY_LOOK_UP)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in LOOK_UPS
    }
    assert wrong == set()


def test_files_and_functions_stay_small():
    large = {}
    for name, path in modules(ROOT).items():
        text = path.read_text()
        if (lines := text.count("\n")) > LONGEST_FILE:
            large[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    large[f"{name}.{node.name}"] = lines
    assert large == {}


def test_no_file_has_a_name_that_says_nothing():
    assert not [name for name in modules(ROOT) if re.search(r"\.(utils|helpers|misc|common)$", name)]


def test_the_word_any_is_rare_where_the_pieces_are_put_together():
    found = [line for path in (ROOT / "simulations").rglob("*.py") for line in path.read_text().splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in found) <= 40
