"""Installed, the package owns one import name, wherever Python starts and whatever a project beside it is called."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).parent.parent
FOLDERS = ("fl_privacy", "strategies", "simulations")
KEPT = {".py", ".toml", ".csv", ".typed"}
PROJECT = {
    "strategies.py": "MINE = 'strategies'\n",
    "simulations/__init__.py": "MINE = 'simulations'\n",
    "simulations/nets.py": """
import os
from pathlib import Path

from torch import Size, nn

import fl_privacy.simulations
import fl_privacy.strategies
import simulations
import strategies


def linear(image_shape, classes):
    assert (strategies.MINE, simulations.MINE) == ("strategies", "simulations")
    ours = (fl_privacy, fl_privacy.strategies, fl_privacy.simulations)
    seen = Path(os.environ["SEEN"]) / str(os.getpid())
    seen.write_text("\\n".join(module.__file__ for module in ours))
    return nn.Sequential(nn.Flatten(), nn.Linear(Size(image_shape).numel(), classes))
""",
    "tiny.toml": """
clients = 3
clients_per_round = 3
dataset = {name = "digits", size = 8}
model = "simulations.nets:linear"
attacks = [{name = "grnn", iterations = 2, latent = 4, width = 2}]
""",
}
"""A user's project with a module and a package of the repository's folder names, and an experiment that uses them."""


def package_files():
    """Every file that an installation must have, by the name that it has there."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KEPT and not path.is_symlink():
                inside = path.relative_to(ROOT).as_posix()
                found.add(inside if folder == "fl_privacy" else f"fl_privacy/{inside}")
    return found


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """The repository's files with their links, and nothing that a build or a run left behind."""
    folder = tmp_path_factory.mktemp("clone") / "repository"
    folder.mkdir()
    caches = shutil.ignore_patterns("__pycache__")
    for name in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=caches)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def project(tmp_path):
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "seen").mkdir()
    return tmp_path


def run(command, folder, **environment):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "SEEN": str(folder / "seen"), **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules_seen(project):
    """The paths of our three packages, as every process that built the model found them, and how many these were."""
    texts = [path.read_text() for path in (project / "seen").iterdir()]
    assert len(set(texts)) == 1
    return [Path(line) for line in texts[0].splitlines()], len(texts)


def test_the_app_bundle_holds_no_copy_of_the_package(clone):
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(clone))) as bundle:
        names = bundle.namelist()
    assert "pyproject.toml" in names
    assert [name for name in names if name.endswith(".py")] == [], "Flower leaves links out: half a copy would shadow"


def test_a_project_with_packages_of_our_folders_names(project):
    run([sys.executable, "-c", "import simulations.nets as n; n.linear((1, 8, 8), 10)"], project, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "fl_privacy.simulations.cli", "run", "tiny.toml", "--backend", "local"]
    run([*command, "--out", "out"], project, PYTHONPATH=str(ROOT))
    assert json.loads((project / "out" / "results.json").read_text())["digests"]
    found, _ = modules_seen(project)
    assert {path.relative_to(ROOT).parts[0] for path in found} == {"fl_privacy"}


@pytest.mark.parametrize("linkless", ["a text file", "nothing"])
@pytest.mark.parametrize("statement", ["import fl_privacy", "import fl_privacy.simulations.cli"])
def test_a_checkout_without_links_says_what_to_do(linkless, statement, tmp_path):
    (tmp_path / "fl_privacy").mkdir()
    shutil.copy(ROOT / "fl_privacy" / "__init__.py", tmp_path / "fl_privacy")
    if linkless == "a text file":
        (tmp_path / "fl_privacy" / "strategies").write_text("../strategies")
        (tmp_path / "fl_privacy" / "simulations").write_text("../simulations")
    command = [sys.executable, "-S", "-c", statement]  # an editable installation would help out
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"ImportError: fl_privacy\.strategies is missing.*git config core\.symlinks", done.stderr)


# What follows builds and installs, with an index of packages at hand: pytest -m install


@pytest.fixture(scope="session")
def built(clone, tmp_path_factory):
    """(sdist, wheel made of the sdist, wheel made of the tree)."""
    out = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "build", "-o", out / "release", clone], check=True, capture_output=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out / "tree", clone],
        check=True,
        capture_output=True,
    )
    (sdist,) = (out / "release").glob("*.tar.gz")
    (released,) = (out / "release").glob("*.whl")
    (wheel,) = (out / "tree").glob("*.whl")
    return sdist, released, wheel


def environment(folder, *installed):
    """A virtual environment with `installed` in it; what it depends on comes from the one that runs the tests."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", *installed]
    subprocess.run([str(word) for word in pip], check=True, capture_output=True)
    here = Path(sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"])
    (here / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for script in importlib.metadata.distribution("flwr").entry_points.select(group="console_scripts"):
        lines = (
            f"#!{python}",
            "import sys",
            f"from {script.module} import {script.attr}",
            f"sys.exit({script.attr}())",
        )
        (folder / "bin" / script.name).write_text("\n".join(lines))
        (folder / "bin" / script.name).chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="session")
def plain(built, tmp_path_factory):
    """The programs of an environment with the wheel installed."""
    return environment(tmp_path_factory.mktemp("plain"), built[2])


@pytest.fixture(scope="session")
def editable(clone, tmp_path_factory):
    """The programs of an environment with an editable installation of the clone."""
    return environment(tmp_path_factory.mktemp("editable"), "-e", clone)


def names_in(archive):
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as files:
        assert not [each.name for each in files if each.issym()], "links are files here: Windows can unpack them"
        return {each.name.partition("/")[2] for each in files if each.isfile()}


@pytest.mark.install
@pytest.mark.parametrize("which", [1, 2], ids=["wheel of the sdist", "wheel of the tree"])
def test_the_wheel_owns_one_name_and_has_every_file(which, built):
    names = names_in(built[which])
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"fl_privacy"}
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert {"fl_privacy/py.typed", "fl_privacy/simulations/experiments/quickstart.toml"} <= names


@pytest.mark.install
def test_the_sdist_has_every_file(built):
    assert package_files() <= names_in(built[0])


@pytest.mark.install
def test_types_are_seen(plain, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fl_privacy.strategies.guard import TRAIN_METRICS\nreveal_type(TRAIN_METRICS)\n"
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", plain / "python", "mine.py"]
    said = run([*command, "--cache-dir", tmp_path / "cache"], tmp_path)
    assert re.search(r"frozenset\[(builtins\.)?str\]", said)


@pytest.fixture(params=["plain", "editable"])
def programs(request):
    """The programs of an environment with the package."""
    return request.getfixturevalue(request.param)


@pytest.mark.install
def test_the_command_runs_in_a_project_with_packages_of_our_folders_names(programs, project):
    run([programs / "fl-privacy", "run", "tiny.toml", "--backend", "local", "--out", "out"], project)
    found, _ = modules_seen(project)
    assert {path.parent.name for path in found} == {"fl_privacy", "strategies", "simulations"}


@pytest.mark.install
@pytest.mark.ray
@pytest.mark.parametrize("place", ["project", "clone"])
def test_ray_workers_import_what_python_imports(place, programs, project, clone):
    """Also where Python starts in the clone, as a notebook does, and finds its folder before what is installed."""
    if place == "clone":
        project = Path(shutil.copytree(clone, project / "clone", symlinks=True))
        (project / "seen").mkdir()
        nets = PROJECT["simulations/nets.py"].replace("import simulations\nimport strategies\n", "")
        (project / "nets.py").write_text("".join(line for line in nets.splitlines(True) if "assert" not in line))
        (project / "tiny.toml").write_text(PROJECT["tiny.toml"].replace("simulations.nets", "nets"))
    code = "from fl_privacy.simulations import load_experiment as load, simulate\n"
    code += "done = [simulate(load('tiny.toml'), backend=each, out=each) for each in ('local', 'ray')]\n"
    code += "assert done[0].digests == done[1].digests"
    run([programs / "python", "-c", code], project)
    found, processes = modules_seen(project)
    assert processes > 1
    assert (found[0].parents[1] == project) == (place == "clone")


@pytest.mark.install
@pytest.mark.ray
def test_flwr_run_uses_what_is_installed(plain, clone, flower_home, tmp_path):
    """Not the half copy of the package that a bundle would be."""
    (tmp_path / "seen").mkdir()
    (tmp_path / "nets.py").write_text(PROJECT["simulations/nets.py"])
    (tmp_path / "strategies.py").write_text(PROJECT["strategies.py"])
    (tmp_path / "simulations.py").write_text(PROJECT["simulations/__init__.py"])
    (tmp_path / "tiny.toml").write_text(PROJECT["tiny.toml"].replace("simulations.nets", "nets"))
    command = [plain / "flwr", "run", clone, "--stream", "--run-config", f'experiment="{tmp_path}/tiny.toml" out="out"']
    paths = {"PATH": f"{plain}{os.pathsep}{flower_home['PATH']}", "PYTHONPATH": str(tmp_path)}
    options = ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]
    said = run([*command, *options], tmp_path, **{**flower_home, **paths, "SEEN": str(tmp_path / "seen")})
    assert (tmp_path / "out" / "results.json").exists() or "folder:" in said, said
    found, processes = modules_seen(tmp_path)
    assert processes > 1
    assert all(path.is_relative_to(plain.parent) for path in found)
