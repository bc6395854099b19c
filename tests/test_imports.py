"""The three import rules: fl_privacy <- strategies <- simulations, and no attack reaches for the truth."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "fl_privacy": {"flwr", "ray", "strategies", "simulations"},
    "strategies": {"simulations"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        (path.name, module) for path in files for module in imported(path) if module.split(".")[0] in FORBIDDEN[package]
    }
    assert not wrong


def test_no_attack_imports_the_evaluator():
    wrong = {
        (path.name, module)
        for path in (ROOT / "fl_privacy" / "attacks").rglob("*.py")
        for module in imported(path)
        if module.startswith("fl_privacy.evaluation")
    }
    assert not wrong, "an attack that can import Truth can cheat"


def test_the_library_alone_pulls_in_neither_flower_nor_ray():
    code = (
        "import sys, fl_privacy.attacks, fl_privacy.data, fl_privacy.evaluation, fl_privacy.client;"
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
