"""The import rules: fl_privacy <- strategies <- simulations, and no attack reaches for the truth."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "fl_privacy": {"flwr", "ray", "strategies", "simulations", "fl_privacy.strategies", "fl_privacy.simulations"},
    "strategies": {"simulations", "fl_privacy.simulations"},
}
TRUTH = "Truth"


def module_of(path: Path, root: Path) -> str:
    """The dotted name of a file below `root`; a package's __init__.py has the package's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Every module that a file imports, at any depth of its code and for types alone; relative ones by their full name.

    Of `from a import b` both a and a.b, because the text does not say which of them is the module.
    """
    found: set[str] = set()
    name = module_of(path, root)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def files_of(root: Path) -> dict[str, Path]:
    """The files of the package below `root`, by module."""
    return {module_of(path, root): path for path in (root / "fl_privacy").rglob("*.py")}


def reached(start: str, root: Path) -> set[str]:
    """The modules below `root` that `start` imports, and those that these import, and so on; `start` included.

    A package's __init__.py is followed only where something is imported from itself: it holds the doors for users.
    """
    files, seen, waiting = files_of(root), set(), [start]
    while waiting:
        name = waiting.pop()
        if name in files and name not in seen:
            seen.add(name)
            names = imported(files[name], root)
            passed = {each.rpartition(".")[0] for each in names if each in files}
            used = {each.rpartition(".")[0] for each in names if each not in files}
            waiting += sorted(names - (passed - used))
    return seen


def shows_the_truth(path: Path) -> bool:
    """Whether a file's code defines, imports or names `Truth`, or reaches `evaluation` as an attribute."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ClassDef(name=name) | ast.alias(name=name) | ast.Name(id=name) if name == TRUTH:
                return True
            case ast.Attribute(attr=name) if name in {TRUTH, "evaluation"}:
                return True
    return False


def cheats(root: Path) -> set[tuple[str, str]]:
    """(attack's module, module that shows it the truth) for every attack below `root`; dynamic imports count too."""
    files, wrong = files_of(root), set()
    for name in (each for each in files if each.startswith("fl_privacy.attacks")):
        reach = reached(name, root)
        wrong |= {(name, each) for each in reach if each == "fl_privacy.evaluation" or shows_the_truth(files[each])}
        for node in ast.walk(ast.parse(files[name].read_text())):
            if isinstance(node, ast.Name | ast.Attribute | ast.alias):
                called = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}[type(node)]
                if getattr(node, called) in {"import_module", "importlib", "__import__"}:
                    wrong.add((name, "a dynamic import"))
    return wrong


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        (path.name, module)
        for path in files
        for module in imported(path)
        for banned in FORBIDDEN[package]
        if f"{module}.".startswith(f"{banned}.") and not module_of(path, ROOT).startswith(banned)
    }
    assert not wrong


def test_no_attack_reaches_the_truth():
    assert len(reached("fl_privacy.attacks.output.decoders", ROOT)) > 10, "what other modules import is followed"
    assert not cheats(ROOT), "an attack that can import Truth can cheat"


WAYS_TO_CHEAT = {
    "plain": "from fl_privacy.evaluation import Truth",
    "module": "import fl_privacy.evaluation",
    "relative": "from ..evaluation import Truth",
    "relative module": "from .. import evaluation",
    "another name": "from ..evaluation import score as helper",
    "type only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..evaluation import Truth",
    "inside a function": "def f():\n    from fl_privacy import evaluation",
    "through a module": "from ..helper import score",
    "through two": "from fl_privacy import far",
    "through a package": "from fl_privacy.door import anything",
    "defined elsewhere": "from ..judge import anything",
    "attribute": "import fl_privacy.observation\nx = fl_privacy.evaluation.score",
    "dynamic": "import importlib\nx = importlib.import_module('fl_privacy.' + 'evaluation')",
    "built in": "x = __import__('fl_privacy.evaluation')",
}


@pytest.fixture
def tree(tmp_path):
    """A small package in which an attack can be put beside the evaluator."""
    files = {
        "evaluation.py": "class Truth: ...\ndef score(): ...",
        "observation.py": "class Observation: ...",
        "helper.py": "from .evaluation import score",
        "far.py": "from fl_privacy import helper",
        "judge.py": "class Truth: ...\nanything = 1",
        "door/__init__.py": "from ..evaluation import score\nanything = score",
        "door/inside.py": "harmless = 1",
        "__init__.py": "",
        "attacks/__init__.py": "from . import good",
        "attacks/good.py": "from ..observation import Observation\nfrom fl_privacy.door import inside",
    }
    for name, text in files.items():
        path = tmp_path / "fl_privacy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_an_honest_attack_is_let_through(tree):
    assert not cheats(tree)


@pytest.mark.parametrize("way", WAYS_TO_CHEAT)
def test_an_attack_that_cheats_is_found(way, tree):
    (tree / "fl_privacy" / "attacks" / "bad.py").write_text(WAYS_TO_CHEAT[way])
    assert "fl_privacy.attacks.bad" in {name for name, _ in cheats(tree)}


def test_the_library_alone_pulls_in_neither_flower_nor_ray():
    code = (
        "import sys, fl_privacy.attacks, fl_privacy.data, fl_privacy.evaluation, fl_privacy.federated.client;"
        "print([m for m in ('flwr', 'ray') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_nothing_unpickles_or_evaluates():
    banned = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
    for package in ("fl_privacy", "strategies", "simulations"):
        for path in (ROOT / package).rglob("*.py"):
            assert not {m.split(".")[0] for m in imported(path)} & banned, path
            calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [f for f in calls if isinstance(f, ast.Name) and f.id in {"eval", "exec"}], path


def test_the_check_of_a_run_imports_no_compiler(tmp_path):
    """It would cost every run seconds at its start: what is tried there goes through plain autograd."""
    code = (
        "import sys; from fl_privacy.simulations import load_experiment;"
        "from fl_privacy.simulations.run.pipeline import check;"
        "check(load_experiment('quickstart'), backend='local');"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
