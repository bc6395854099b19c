"""A whole run on a machine that reaches nothing: no telemetry, no update check, no download is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed import whole
from namespaces import NO_NETWORK, inside, why_not

from fl_privacy.simulations.config.load import load_experiment

TOML = """
clients = 3
clients_per_round = 2
rounds = 2
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attack = {name = "grnn", iterations = 2, width = 4}
"""
LOOKING_OUT = """
import socket

def within(address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise SystemExit(f"a connection to {address}")

def guarded(method):
    def connect(self, address):
        within(address)
        return method(self, address)
    return connect

socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
socket.getaddrinfo = lambda host, *rest, ask=socket.getaddrinfo, **more: within((host,)) or ask(host, *rest, **more)
"""
ANYBODY = "192.0.2.1"
"""An address that is nobody's (RFC 5737)."""


@pytest.fixture
def toml(tmp_path) -> Path:
    (tmp_path / "tiny.toml").write_text(TOML)
    return tmp_path / "tiny.toml"


def run(command, out, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "results.json").read_text())["digests"]


@pytest.mark.ray
def test_a_run_on_ray_without_a_network_has_the_bits_of_one_with_it(toml, tmp_path):
    if reason := why_not(NO_NETWORK):
        pytest.skip(reason)
    out = tmp_path / "out"
    words = ["-m", "fl_privacy.simulations.cli", "run", str(toml), "--out", str(out), "--workers", "2"]
    found = run(inside(NO_NETWORK, *words), out, dict(os.environ))
    assert found == whole(load_experiment(str(toml)), tmp_path / "here").digests


def test_a_run_connects_to_nobody_and_asks_for_no_name(toml, tmp_path):
    """The same where no namespace can be had: of this process's own sockets, which leave out those of Ray."""
    (tmp_path / "sitecustomize.py").write_text(LOOKING_OUT)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    watched = {**os.environ, "PYTHONPATH": path}
    caught = f"import socket; socket.create_connection(('{ANYBODY}', 9))"
    done = subprocess.run([sys.executable, "-c", caught], env=watched, capture_output=True, text=True)
    assert f"a connection to ('{ANYBODY}'" in done.stderr
    out = tmp_path / "out"
    words = ["-m", "fl_privacy.simulations.cli", "run", str(toml), "--out", str(out), "--backend", "local"]
    assert run([sys.executable, *words], out, watched)


def test_without_a_network_there_is_none_but_this_machines_own():
    if reason := why_not(NO_NETWORK):
        pytest.skip(reason)
    reach = f"import socket; socket.create_connection(('{ANYBODY}', 9), 5)"
    done = subprocess.run(inside(NO_NETWORK, "-c", reach), capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr
    own = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 5)"
    assert subprocess.run(inside(NO_NETWORK, "-c", own)).returncode == 0
