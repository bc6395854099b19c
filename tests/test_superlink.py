"""The example app on a real SuperLink with two SuperNodes, each a process of its own; `pytest -m install` runs this."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks" / "own_app"
BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def wait_for(port: int, seconds: float = 150) -> None:
    """Until something listens there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port} after {seconds} s")


@pytest.fixture
def processes():
    started: list[subprocess.Popen] = []
    yield started
    for each in started:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGTERM)
    for each in started:
        try:
            each.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(each.pid, signal.SIGKILL)


@pytest.mark.install
@pytest.mark.skipif(version("flwr").startswith("1.41"), reason="its SuperLink has one port for each API")
@pytest.mark.timeout(500)
def test_a_real_superlink_with_two_supernodes_is_recorded_and_audited(tmp_path, processes):
    app, home, out = tmp_path / "app", tmp_path / "flwr", tmp_path / "observations"
    shutil.copytree(FOLDER, app, ignore=shutil.ignore_patterns("__pycache__"))
    link, first, second = (free_port() for _ in range(3))
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "mine"\n\n[superlink.mine]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(home), "FL_PRIVACY_DATA": str(tmp_path / "none")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])

    def start(name: str, *words: str) -> None:
        log = (tmp_path / f"{name}.log").open("w")
        done = subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        processes.append(done)

    start("link", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link))
    wait_for(link)
    for number, port in enumerate((first, second)):
        node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(port)]
        start(f"node{number}", *node, "--node-config", f"partition-id={number} num-partitions=2")
    changes = f'out="{out}" num-server-rounds=1'
    ran = subprocess.run(
        ["flwr", "run", str(app), "mine", "--stream", "--run-config", changes],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    logs = "\n".join(f"{each.name}: {each.read_text()[-2000:]}" for each in tmp_path.glob("*.log"))
    assert (out / "round_1/round.json").is_file(), ran.stdout[-3000:] + ran.stderr[-3000:] + logs
    told = json.loads((out / "round_1/round.json").read_text())
    assert sorted(each["metrics"]["metrics"]["partition-id"] for each in told["replies"]) == [0, 1]
    assert all(each["file"] and each["applied"] == "none" for each in told["replies"])
    about = json.loads((out / "about.json").read_text())
    assert (about["strategy"], about["model"]) == ("FedAvg", "own_app.task:Net")
    assert about["run_config"]["learning-rate"] == 0.01
    words = ["-m", "fl_privacy.simulations.cli", "audit", str(out), "--model", "own_app.task:Net"]
    words += ["--truth", "own_app.task:load_data", "--attack", "label_counts", "--out", str(tmp_path / "audit")]
    audited = subprocess.run(
        [sys.executable, *words], cwd=app, env=environment, capture_output=True, text=True, timeout=200
    )
    assert audited.returncode == 0, audited.stderr
    assert "Labels were read in 2 of 2 messages" in audited.stdout
    assert "run config says under 'learning-rate'" in audited.stdout
