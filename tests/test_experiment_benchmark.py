"""A measurement that is gone on with keeps its rows, and refuses those of another experiment."""

import json

import pytest

from benchmarks.experiment import chosen, kept, new_run, shared_settings
from fl_privacy.simulations.config.load import load_experiment


def test_rows_of_the_same_changes_are_kept_and_others_refused(tmp_path):
    path = tmp_path / "x.json"
    assert kept(path, [], {}) == []
    path.write_text(json.dumps({"changes": ["rounds=2"], "rows": [{"seed": 0}]}))
    assert kept(path, ["rounds=2"], {"rounds": 2}) == [{"seed": 0}]
    with pytest.raises(ValueError, match=r"made with --set \['rounds=2'\]"):
        kept(path, [], {})


def test_rows_of_an_experiment_that_was_edited_since_are_refused(tmp_path):
    path = tmp_path / "x.json"
    before = shared_settings({"": load_experiment("quickstart", seed=1)})
    path.write_text(json.dumps({"changes": [], "settings": before, "rows": [{"seed": 0}]}))
    assert kept(path, [], shared_settings({"": load_experiment("quickstart", seed=2)})) == [{"seed": 0}]
    with pytest.raises(ValueError, match="made with another learning_rate, rounds: name another"):
        kept(path, [], shared_settings(chosen("quickstart", [], ["rounds=2", "learning_rate=0.5"], None)))


def test_cells_of_a_matrix_go_into_one_file_each_with_its_settings():
    found = shared_settings(chosen("secure_sums", ["digits/k1", "digits/k5"], [], None))
    assert {cell: settings["clients_per_round"] for cell, settings in found.items()} == {"digits/k1": 1, "digits/k5": 5}


def test_an_interrupted_run_is_begun_again_and_a_finished_one_kept(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert not new_run(tmp_path).exists()
    tmp_path.mkdir()
    (tmp_path / "results.json").write_text("{}")
    assert new_run(tmp_path).exists()
