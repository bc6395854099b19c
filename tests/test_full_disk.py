"""A disk that fills up, or that cannot be written: nothing that was finished is lost, and the run says what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed import told, whole
from namespaces import OWN_MOUNTS, inside, why_not
from test_resume import GRADIENT

from fl_privacy import atomic, checkpoints
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.strategies import resumable

TOML = """
clients = 3
clients_per_round = 3
rounds = 6
attacked_rounds = [1, 2, 3, 4, 5, 6]
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attack = {name = "grnn", iterations = 2, width = 4}
"""


@pytest.fixture
def every_round(monkeypatch):
    monkeypatch.setattr(resumable, "EVERY_SECONDS", 0.0)


def filling(monkeypatch, after):
    """A disk that takes this many bytes more, and then the first half of a file."""
    left, write = [after], Path.write_bytes

    def limited(path, content):
        left[0] -= len(content)
        if left[0] < 0:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    monkeypatch.setattr(atomic.Path, "write_bytes", limited)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_disk_that_fills_up_costs_nothing_that_was_finished(share, every_round, tmp_path, monkeypatch):
    wanted = whole(GRADIENT, tmp_path / "whole", figures=False).folder
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        filling(patch, share * size(wanted))
        with pytest.raises(OSError, match="No space left"):
            whole(GRADIENT, out, figures=False)
    assert checkpoints.load(out / "checkpoints" / "0.safetensors")[1]["round"] >= 1
    assert not list(out.rglob("*.tmp")), "half a file stays nowhere"
    assert told(whole(GRADIENT, out, figures=False, resume=True).folder) == told(wanted)


def test_on_a_real_disk_the_command_stops_by_name_and_goes_on_when_there_is_room(every_round, tmp_path):
    """A file system of its own: read-only first, then too small by a third, then read-only in the middle of the run."""
    if reason := why_not(OWN_MOUNTS):
        pytest.skip(reason)
    (tmp_path / "tiny.toml").write_text(TOML)
    wanted = whole(load_experiment(str(tmp_path / "tiny.toml")), tmp_path / "whole", figures=False)
    kilobytes = str(round(size(wanted.folder / "observations") / 1500))
    driver = [str(Path(__file__).with_name("small_disk.py")), str(tmp_path / "disk"), kilobytes]
    path = os.pathsep.join(filter(None, sys.path))
    command = inside(OWN_MOUNTS, *driver, str(tmp_path / "tiny.toml"))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    for state in ("read-only", "read-only in the middle"):
        assert found[state]["code"] == 2, found[state]["said"]
        assert "cannot be written" in found[state]["said"]
    assert found["full"]["code"] == 1
    assert "No space left on device" in found["full"]["said"]
    assert "--resume" in found["full"]["said"]
    assert "Traceback" not in found["full"]["said"]
    assert 1 <= found["round"] < 6
    assert found["resumed"]["code"] == 0, found["resumed"]["said"]
    assert found["kept"], "no observation of a finished round was made again"
    assert found["digests"] == wanted.digests
