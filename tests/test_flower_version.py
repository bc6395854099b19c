"""Flower moves its inside between releases: what nobody tried is refused before anything starts."""

import tomllib
from pathlib import Path

import pytest

from fl_privacy.simulations import load_experiment
from fl_privacy.simulations.backends import flower_version
from fl_privacy.simulations.backends.flower_version import BEYOND, FIRST, check_flower
from fl_privacy.simulations.run.pipeline import plan

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("found", ["1.41.0", "1.42.0", "1.42.3", "1.42rc1"])
def test_known_releases_pass(found):
    check_flower(found)


@pytest.mark.parametrize("found", ["1.40.9", "1.43.0", "1.43.0.dev1", "2.0.0", "0.42.0"])
def test_others_are_refused_with_the_mend(found):
    with pytest.raises(RuntimeError, match=f"flwr {found} is installed.*flwr>=1.41,<1.43"):
        check_flower(found)


def test_the_installed_one_is_known():
    check_flower()


def test_pyproject_says_the_same():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert "flwr[simulation]>={}.{},<{}.{}".format(*FIRST, *BEYOND) in wanted


@pytest.mark.parametrize("backend", ["ray", "local"])
def test_a_run_is_refused_before_its_folder_is_made(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(flower_version, "version", lambda name: "1.43.0")
    with pytest.raises(RuntimeError, match=r"flwr 1\.43\.0"):
        plan(load_experiment("quickstart"), out=tmp_path / "run", backend=backend)
    assert not (tmp_path / "run").exists()
