"""A result file tells when its code or its settings have changed."""

from benchmarks.experiment import chosen, shared_settings
from benchmarks.stale import changed

COMMAND = "python -m benchmarks.experiment quickstart"


def test_each_change_is_named():
    settings = shared_settings(chosen("quickstart", [], [], None))
    record = {"command": COMMAND, "settings": settings, "provenance": {"source": "a"}}
    assert changed(record, "a") == []
    assert changed(record, "b") == ["code"]
    assert changed({**record, "settings": {**settings, "rounds": 99}}, "a") == ["settings: rounds"]
    assert "does not load" in changed({**record, "command": COMMAND + "_gone"}, "a")[0]
    assert changed({"command": COMMAND}, "a") == ["code not recorded", "settings not recorded"]
