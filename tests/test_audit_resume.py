"""A killed audit: what it found is there, and what goes on in its folder has the bits of one that was not killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_audit_folder import Net, observed
from typer.testing import CliRunner

from fl_privacy.checkpoints import digest
from fl_privacy.simulations import audit
from fl_privacy.simulations.auditing import audit as door
from fl_privacy.simulations.auditing import tries
from fl_privacy.simulations.cli import app

ATTACKS = ["label_counts", "peeling", "low_rank"]
KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_audit_folder import Net
from fl_privacy.simulations import audit
from fl_privacy.simulations.auditing import audit as door

keep, left = door.keep, [{after}]
def counted(folder, found):
    keep(folder, found)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
door.keep = counted
audit({folder!r}, model=Net, attacks={attacks!r}, rounds=[1], out={out!r}, resume=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return observed(tmp_path_factory.mktemp("seen") / "observations", rounds=1)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    return audited(folder, tmp_path_factory.mktemp("whole") / "out")


def audited(folder, out, **more):
    return audit(folder, **{"model": Net, "attacks": ATTACKS, "rounds": [1], "out": out, **more})


def timeless(report):
    """A report without what two processes may differ in: times, and what was typed."""
    if isinstance(report, dict):
        return {key: timeless(value) for key, value in report.items() if key not in ("seconds", "environment")}
    return [timeless(each) for each in report] if isinstance(report, list | tuple) else report


def bits(found):
    return {
        place: digest({key: value for key, value in vars(guess).items() if isinstance(value, torch.Tensor)})
        for place, guess in type(found).read(found.folder).guesses.items()
    }


def test_killed_twice_it_has_the_bits_of_one_that_was_not(folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for after, there in ((2, 2), (1, 3)):
        script = KILLED.format(
            tests=str(Path(__file__).parent), folder=str(folder), out=str(out), attacks=ATTACKS, after=after
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert done.returncode == -9, done.stderr.decode()
        assert len(list(out.rglob("client_*/*.json"))) == there
    assert not (out / "audit.json").exists()
    computed, keep = [], door.keep

    def counted(where, found):
        keep(where, found)
        computed.append((where.name, found.name))

    monkeypatch.setattr(door, "keep", counted)
    notes = []
    audited(folder, out, resume=True, note=notes.append)
    assert "3 of 6 results are there already" in notes
    assert computed == [("client_1", "peeling"), ("client_0", "low_rank"), ("client_1", "low_rank")]
    assert timeless(json.loads((out / "audit.json").read_text())) == timeless(
        json.loads((whole.folder / "audit.json").read_text())
    )


def test_a_stop_by_the_keyboard_costs_nothing_finished(folder, whole, tmp_path, monkeypatch):
    tried, calls = tries._tried, []

    def stopped(attack, *rest):
        calls.append(attack)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return tried(attack, *rest)

    monkeypatch.setattr(tries, "_tried", stopped)
    with pytest.raises(KeyboardInterrupt):
        audited(folder, tmp_path)
    monkeypatch.setattr(tries, "_tried", tried)
    with pytest.raises(ValueError, match=r"not finished: go on with it \(--resume"):
        audited(folder, tmp_path)
    said = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (said.exit_code, "is not finished" in said.output) == (2, True)
    assert bits(audited(folder, tmp_path, resume=True)) == bits(whole)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"attacks": ["label_counts"]}, "attacks"),
        ({"seed": 1}, "seed"),
        ({"clients": [0]}, "messages"),
        ({"defence": "clip(norm=1.0)"}, "messages"),
    ],
)
def test_another_audit_does_not_go_on_in_its_folder(folder, whole, change, word):
    with pytest.raises(ValueError, match=f"another one.*{word}"):
        audited(folder, whole.folder, resume=True, **change)


def test_what_ran_out_of_time_is_tried_again_and_a_damaged_result_too(folder, whole, tmp_path):
    first = audited(folder, tmp_path, minutes=1e-9)
    assert {row["reason"] for each in first.report["messages"] for row in each["attacks"]} == {tries.OVER}
    assert bits(audited(folder, tmp_path, resume=True)) == bits(whole)
    for path in tmp_path.rglob("peeling.safetensors"):
        path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    assert bits(audited(folder, tmp_path, resume=True)) == bits(whole)


def test_resume_needs_a_folder_to_go_on_in(folder):
    with pytest.raises(ValueError, match=r"name it \(--out\)"):
        audited(folder, None, resume=True)


def test_the_command_goes_on(folder, tmp_path, monkeypatch):
    words = ["audit", str(folder), "--model", "test_audit_folder:Net", "--attack", "label_counts"]
    words += ["--out", str(tmp_path / "out"), "--resume"]
    assert [CliRunner().invoke(app, words).exit_code for _ in range(2)] == [0, 0]
