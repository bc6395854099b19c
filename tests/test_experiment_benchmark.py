"""A measurement that is gone on with keeps its rows, and refuses those of another experiment."""

import json

import pytest

from benchmarks.experiment import kept


def test_rows_of_the_same_changes_are_kept_and_others_refused(tmp_path):
    path = tmp_path / "x.json"
    assert kept(path, []) == []
    path.write_text(json.dumps({"changes": ["rounds=2"], "rows": [{"seed": 0}]}))
    assert kept(path, ["rounds=2"]) == [{"seed": 0}]
    with pytest.raises(ValueError, match=r"made with --set \['rounds=2'\]"):
        kept(path, [])
