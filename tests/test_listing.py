"""`fl-privacy list`: everything at once or one kind, and where each entry comes from."""

import importlib
import json
import sys

import pytest
from typer.testing import CliRunner

from fl_privacy.defences import DEFENCES
from fl_privacy.models import MODELS
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.early import LISTED as KINDS
from fl_privacy.simulations.listing import entries

PLUG_IN = '''
"""Another package's defence."""

from dataclasses import dataclass

from fl_privacy.defences import Defence


@dataclass(frozen=True)
class Mute(Defence):
    """Releases zeros,
    whatever came.

    Nothing else.
    """

    volume: float = 0.5
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution beside this one, with one entry point that works and one that does not."""
    (tmp_path / "mute_defence.py").write_text(PLUG_IN)
    (tmp_path / "mute_defence-1.0.dist-info").mkdir()
    (tmp_path / "mute_defence-1.0.dist-info" / "METADATA").write_text("Name: mute-defence\nVersion: 1.0\n")
    (tmp_path / "mute_defence-1.0.dist-info" / "entry_points.txt").write_text(
        "[fl_privacy.defences]\nmute = mute_defence:Mute\nabsent = no_such_module:Gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    DEFENCES.__dict__.pop("_plug_ins", None)  # read once a process
    yield
    DEFENCES.__dict__.pop("_plug_ins", None)
    sys.modules.pop("mute_defence", None)


def listed(*words):
    done = CliRunner().invoke(app, ["list", *words])
    assert done.exit_code == 0, done.output
    return done.output


def entry(kind, name):
    (found,) = [each for each in entries(kind) if each["name"] == name]
    return found


def test_list_alone_shows_every_catalogue():
    everything = json.loads(listed("--json"))
    assert list(everything) == list(KINDS)
    for kind, found in everything.items():
        assert [each["name"] for each in found] == [each["name"] for each in entries(kind)] != []
    table = listed()
    assert all(each["name"] in table for found in everything.values() for each in found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_where_it_comes_from(kind):
    assert {each["from"] for each in entries(kind)} == {"fl-privacy"}


def test_a_users_own_module_is_named(monkeypatch):
    def small(image_shape, classes, width=4):
        """A model of the user's own."""

    small.__module__ = "my_project.nets"
    monkeypatch.setitem(MODELS._entries, "small", small)
    assert entry("models", "small")["from"] == "my_project.nets"
    assert "my_project.nets" in listed("models")


def test_an_installed_package_is_named_and_a_broken_one_does_not_hide_the_others(installed):
    assert entry("defences", "mute") == {
        "name": "mute",
        "summary": "Releases zeros, whatever came.",
        "from": "mute-defence",
        "settings": {"volume": 0.5},
    }
    broken = entry("defences", "absent")
    assert (broken["from"], broken["settings"]) == ("mute-defence", {})
    assert broken["summary"].startswith("unusable: cannot import the defence 'no_such_module:Gone'")
    assert entry("defences", "clip")["from"] == "fl-privacy"
    assert "mute-defence" in listed("defences")


def test_markup_in_a_summary_is_text(monkeypatch):
    def bracketed(image_shape, classes):
        """Takes [red]any[/red] image."""

    monkeypatch.setitem(MODELS._entries, "bracketed", bracketed)
    assert "Takes [red]any[/red] image." in listed("models")


def test_experiments_say_their_profiles_and_cells():
    found = entry("experiments", "vicious_table1")
    assert found["profiles"] == ["cpu", "full"]
    assert found["cells"][:2] == ["mnist", "fashion"]
    assert found["summary"].startswith("Vicious Classifiers, Table 1")
    assert (entry("experiments", "quickstart")["profiles"], entry("experiments", "quickstart")["cells"]) == ([], [])
    output = listed("experiments")
    assert "profiles" in output
    assert "cells" in output
