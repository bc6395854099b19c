"""What a killed run leaves behind is found by its folder's name and removed; what lives, or is another's, is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from listening import LOOPBACK, places, split_sockets

from fl_privacy.simulations.backends import leftovers
from fl_privacy.simulations.backends.leftovers import session_folder, sweep

TOML = """
clients = 2
clients_per_round = 2
rounds = 100000
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
"""

SPLIT = """
channel = "activation"
clients = 2
clients_per_round = 2
rounds = 100000
batch_size = 8
train_images = [0, 64]
dataset = {name = "digits", size = 16}
model = {name = "convnet"}
public = {name = "digits", size = 16, first = 1000, count = 100}
attack = {name = "decoder"}
protocol = {cut = ["conv2"], targets = [1373, 1437]}
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    """A process that names the folder, as Ray's do."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"--dir={folder}/session"])


def test_a_dead_runs_processes_and_folder_go_and_a_living_ones_stay(temporary):
    gone = subprocess.Popen(["true"])
    born = leftovers._born(gone.pid)
    gone.wait()
    dead = temporary / f"flp-{os.getuid()}-{leftovers._here()}-{gone.pid}-{born}"
    living = temporary / f"flp-{os.getuid()}-{leftovers._here()}-{os.getppid()}-{leftovers._born(os.getppid())}"
    elsewhere = temporary / f"flp-{os.getuid()}-000000-{gone.pid}-{born}"  # of a host that shares the folder
    other = temporary / "flp-somebody"
    for folder in (dead, living, elsewhere, other):
        (folder / "session").mkdir(parents=True)
    processes = [sleeper(folder) for folder in (dead, living, elsewhere, other)]
    try:
        assert sweep() == [dead]
        assert processes[0].wait(10) < 0
        assert [each.poll() for each in processes[1:]] == [None, None, None]
        assert not dead.exists()
        assert living.exists()
        assert elsewhere.exists()
        assert other.exists()
    finally:
        for each in processes:
            each.kill()
            each.wait()


def test_a_process_that_hides_its_command_line_is_found_by_its_files(temporary):
    folder = temporary / f"flp-{os.getuid()}-{leftovers._here()}-{os.getppid()}-1"
    folder.mkdir()
    with (folder / "agent.log").open("w") as log:
        hidden = subprocess.Popen(["sleep", "600"], stdout=log)
    try:
        assert sweep() == [folder]
        assert hidden.wait(10) < 0
    finally:
        hidden.kill()
        hidden.wait()


def test_a_number_that_another_process_has_by_now_is_told(temporary):
    reused = temporary / f"flp-{os.getuid()}-{leftovers._here()}-{os.getppid()}-1"
    reused.mkdir()
    assert sweep() == [reused]


def test_another_start_of_the_machine_and_another_container_have_other_names(monkeypatch):
    here = leftovers._here.__wrapped__
    names = {here()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", lambda path: "pid:[1]")
        names.add(here())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda path: "another start")
        names.add(here())
    assert len(names) == 3


@pytest.mark.parametrize("gone", ["lstat", "rmtree"])
def test_a_folder_that_another_sweep_removes_meanwhile_is_no_error(gone, temporary, monkeypatch):
    folder = temporary / f"flp-{os.getuid()}-{leftovers._here()}-{os.getppid()}-1"
    folder.mkdir()
    if gone == "lstat":
        monkeypatch.setattr(Path, "glob", lambda place, pattern: iter([temporary / f"{folder.name}0", folder]))
    else:
        monkeypatch.setattr(leftovers, "processes", lambda found: found.rmdir() or [])
    assert sweep() == [folder]
    assert not folder.exists()


def test_ones_own_session_goes_when_it_is_over(temporary):
    folder = session_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(str(folder)) - len(str(temporary)) < 40  # Ray's sockets lie below, and have 107 characters
    assert sweep() == [folder]
    assert not folder.exists()


def of_run(driver: int) -> list[int]:
    """The processes that name the session folder of a run, or have files open there: some hide their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace")
            for each in (place / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    words += f" {os.readlink(each)}"
        except OSError:
            continue
        if re.search(rf"/flp-{os.getuid()}-[0-9a-f]+-{driver}-\d+", words):
            found.append(int(place.name))
    return found


@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("toml", [TOML, SPLIT], ids=["gradients", "split"])
def test_after_a_signal_nothing_of_a_run_on_ray_is_left(toml, how, tmp_path):
    file, out = tmp_path / "long.toml", tmp_path / "out"
    file.write_text(toml)
    words = [sys.executable, "-m", "fl_privacy.simulations.cli", "run", str(file), "--out", str(out), "--workers", "1"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so
    try:  # would what they start
        started = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)

    def begun():
        return split_sockets(of_run(started.pid)) if toml == SPLIT else list(out.glob("observations/*.json"))

    end = time.monotonic() + 240
    while not begun() and time.monotonic() < end:
        time.sleep(0.1)
    sockets = begun()
    assert sockets, "the run had started"
    assert started.poll() is None, "and was not over"
    assert places(of_run(started.pid)) <= LOOPBACK, "its own Ray is for this machine alone"
    assert of_run(started.pid)
    started.send_signal(how)
    try:
        started.wait(60)
    finally:
        started.kill()
    if how == signal.SIGKILL:
        sweep()  # as the next start does
    end = time.monotonic() + 10
    while (of_run(started.pid) or split_sockets() & set(sockets)) and time.monotonic() < end:
        time.sleep(0.2)
    assert of_run(started.pid) == []
    assert not split_sockets() & set(sockets)
    assert not list(Path(tempfile.gettempdir()).glob(f"flp-{os.getuid()}-*-{started.pid}-*"))
