"""Names of every kind that become paths: one safe component each, and no two of a kind share one."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fl_privacy.simulations.channels.activation import cache as split_cache
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.results.storage import load_guesses

BASE = {"name": "x", "clients": 2, "clients_per_round": 2}
WICKED = [
    "../../x",
    "..",
    ".",
    "",
    "/etc",
    "a/b",
    "a\\b",
    "mine:images",
    "a\0b",
    "é",
    "~",
    "-x",
    "x" * 500,
    "a\n",
    "\ud800",
]


def attacks(*labels):
    return {
        "attacks": [{"name": "grnn", "label": each} for each in labels],
    }


@given(st.text(max_size=300))
def test_any_name_becomes_one_safe_component(name):
    safe = files.slug(name)
    assert Path(safe).parts == (safe,)
    assert not safe.startswith(".")
    assert 0 < len(safe.encode()) <= 120
    assert files.slug(safe) == safe or len(safe) > files.LONGEST


@pytest.mark.parametrize("name", WICKED)
def test_wicked_names_stay_inside(name, tmp_path):
    for folder in (tmp_path / files.slug(name), files.guesses_folder(tmp_path, name)):
        folder.mkdir(parents=True)
        assert folder.resolve().is_relative_to(tmp_path)
        assert folder.resolve() not in (tmp_path, tmp_path / layout.GUESSES)
    assert files.default_folder(name, 0).parts[0] == "outputs"
    assert len(files.default_folder(name, 0).parts) == 3


@given(st.text(max_size=20), st.text(max_size=20))
@example("a b", "a_b")
@example("A", "a")
@example("../../x", ".._.._x")
def test_labels_share_no_folder_or_are_refused(one, other):
    folders = {files.slug(each).casefold() for each in (one, other)}
    refused = [{"variants": [{"label": one}, {"label": other}]}, attacks(one, other)]
    for settings in refused:
        if len(folders) == 1:
            with pytest.raises(ValueError, match=r"both become the folder|twice"):
                configure(**{**BASE, **settings})
        else:
            configure(**{**BASE, **settings})


def test_the_refusal_names_both_labels_and_what_to_do():
    with pytest.raises(ValueError, match=r"'a b' and 'a_b' both become the folder 'a_b'.*choose labels that differ"):
        configure(**{**BASE, **attacks("a b", "a_b")})


@pytest.mark.parametrize("name", ["..", "a/b", "../x", ".hidden", "", "a:b", "a b"])
def test_an_experiments_name_is_a_component_already(name):
    with pytest.raises(ValueError, match="'name' becomes a folder"):
        configure(**{**BASE, "name": name})


def test_a_data_sets_name_stays_inside_the_cache(tmp_path, monkeypatch):
    experiment = configure(**{**BASE, "channel": "activation", **_split(tmp_path / "cache")})
    federation = federation_of(experiment.to_json(), None)
    wicked = reconfigure(experiment)
    object.__setattr__(wicked, "dataset", {"name": "../../x"})
    path = split_cache.entry(dataclasses.replace(federation, experiment=wicked), 0)
    assert path is not None
    assert path.parent == tmp_path / "cache"


def _split(cache):
    return {
        "dataset": {"name": "digits", "size": 16},
        "model": {"name": "split_cnn"},
        "attack": {"name": "decoder"},
        "public": {"name": "digits", "size": 16, "split": "test", "count": 50},
        "protocol": {"cache": str(cache)},
    }


@pytest.mark.parametrize("key", ["condition", "round", "client"])
@pytest.mark.parametrize("value", ["../x", -1, 7, True, 1.0])
def test_a_file_of_a_run_that_says_another_key_is_damaged(tmp_path, key, value):
    files.write_json(tmp_path / "0_r1_c0.json", {"condition": 0, "round": 1, "client": 0, key: value})
    with pytest.raises(ValueError, match="is damaged"):
        load_guesses(tmp_path)
