"""Two Ray nodes on this machine, one CPU each: the bits of a single process, and a node that dies costs nothing.

`pytest -m cluster -s` runs these and says how long recoveries took.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import free_ports
from killed import told, whole
from listening import LOOPBACK, places
from namespaces import OWN_MOUNTS, why_not
from PIL import Image

from fl_privacy.simulations.config.load import load_experiment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

TESTS = Path(__file__).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "only-those-who-know-this-run-code"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_max_direct_call_object_size": "1048576", "OMP_NUM_THREADS": "1"}
TOML = """
clients = 3
clients_per_round = 2
rounds = 60
attacked_rounds = [1, 2, 3, 4, 5, 6]
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attack = {name = "grnn", iterations = 60}
"""
DEADLINE = 90.0


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


def words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@dataclass
class Node:
    """A `ray start --block`, with all that it has started."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def raylet(self) -> int:
        return next(pid for pid in children(self.process.pid) if "raylet/raylet" in words(pid).split(" ")[0])

    def works(self) -> bool:
        """Whether a worker of a run's pool is there."""
        return any("ray::Worker" in words(pid) for pid in children(self.process.pid))

    def end(self) -> None:
        """Without grace: nothing here is to be kept."""
        for pid in (*children(self.process.pid), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@dataclass
class Cluster:
    """A head, and other nodes as they are asked for."""

    folder: Path
    port: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **TOKEN, **QUIET}

    def start(self, *choices: str, hidden: Path | None = None) -> Node:
        """A node of one CPU, when it is up; it finds nothing in the folder `hidden`."""
        name = str(len(self.nodes))
        covered = ["unshare", OWN_MOUNTS, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
        command = [
            *(covered if hidden else []),
            sys.executable,
            str(TESTS / "ray_node.py"),
            "start",
            *choices,
            "--node-ip-address=127.0.0.1",
        ]
        command += ["--num-cpus=1", f"--temp-dir={self.folder / name}", "--object-store-memory=100000000"]
        command += ["--disable-usage-stats", "--block"]
        log = self.folder / f"{name}.log"
        with log.open("w") as told:
            process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, env=self.environment)
        node = Node(process, log)
        self.nodes.append(node)
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, 120)
        return node

    def second(self, hidden: Path | None = None) -> Node:
        return self.start(f"--address={self.address}", hidden=hidden)

    def run(self, toml: Path, out: Path, *more: str, program="-mfl_privacy.simulations.cli", environment=None):
        command = [sys.executable, program, "run", str(toml), "--out", str(out), "--ray-address", self.address]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *more], env=environment or self.environment, **pipes)


def wait_until(there, process, seconds):
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    assert there(), process.communicate()


def ended(started, seconds=DEADLINE) -> tuple[int, str]:
    """The code and the words of a run, which has to end by then."""
    try:
        said, _ = started.communicate(timeout=seconds)
    finally:
        started.kill()
    return started.returncode, said


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node that is reached from this machine alone, and with a token."""
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))  # the paths of Ray's sockets have at most 107 characters
    made = Cluster(folder, *free_ports(1))
    try:
        made.start("--head", f"--port={made.port}", "--include-dashboard=false")
        yield made
    finally:
        for node in reversed(made.nodes):
            node.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The experiment's file, and what a single process says of it."""
    folder = tmp_path_factory.mktemp("wanted")
    (folder / "tiny.toml").write_text(TOML)
    return folder / "tiny.toml", told(whole(load_experiment(str(folder / "tiny.toml")), folder / "whole").folder)


def test_who_has_another_token_is_told_so(cluster, wanted, tmp_path):
    stranger = {**cluster.environment, "RAY_AUTH_TOKEN": "another"}
    code, said = ended(cluster.run(wanted[0], tmp_path / "out", environment=stranger))
    assert code == 1
    assert "RAY_AUTH_TOKEN" in said


@pytest.mark.parametrize("moment", ["never", "rounds", "attack"])
def test_two_nodes_give_the_bits_of_one_process_and_the_death_of_one_loses_nothing(moment, cluster, wanted, tmp_path):
    toml, expected = wanted
    node, out = cluster.second(), tmp_path / "out"
    try:
        started = cluster.run(toml, out)
        begun = {"never": "rounds.json", "rounds": "observations/0_r2_*.json", "attack": "reconstructions/grnn/*.json"}
        wait_until(lambda: list(out.glob(begun[moment])), started, 180)
        assert node.works(), "both nodes take part"
        assert not (out / "results.json").exists()
        if moment != "never":
            os.kill(node.raylet, signal.SIGKILL)
        killed = time.monotonic()
        code, said = ended(started)
        print(f"\nrecovery: other node, {moment}: {time.monotonic() - killed:.1f} s")
        assert code == 0, said
        assert told(out) == expected
        counts = [row["counts"] for each in json.loads((out / "rounds.json").read_text()) for row in each["rounds"]]
        assert all(each["received"] == each["expected"] for each in counts if each)
    finally:
        node.end()


@pytest.mark.parametrize("inline", ["1048576", "1000"], ids=["small messages", "messages in shared memory"])
def test_where_the_drivers_own_node_dies_the_run_ends_in_time_and_loses_nothing(inline, cluster, wanted, tmp_path):
    toml, expected = wanted
    node, out = cluster.second(), tmp_path / "out"
    environment = {**cluster.environment, "RAY_max_direct_call_object_size": inline}
    environment["FL_PRIVACY_TESTED_NODE"] = str(cluster.folder / str(len(cluster.nodes) - 1))
    try:
        started = cluster.run(toml, out, program=str(TESTS / "ray_driver.py"), environment=environment)
        wait_until(lambda: list(out.glob("observations/0_r2_*.json")), started, 180)
        os.kill(node.raylet, signal.SIGKILL)
        killed = time.monotonic()
        code, said = ended(started)
        print(f"\nrecovery: the driver's node, to the end with code {code}: {time.monotonic() - killed:.1f} s")
        assert f"attached to {node.log.with_suffix('')}" in said
    finally:
        node.end()
    if code:  # where what it needed lay in that node's memory, Ray ends the process, in its own words
        assert "--resume" in said or inline == "1000"
        code, said = ended(cluster.run(toml, out, "--resume"))
        assert code == 0, said
    assert told(out) == expected


OWN = {
    "code": 'model = "mine_alone:net"',
    "data": 'dataset = {name = "folder", path = "images", grey = true}\nmodel = {name = "lenet_dlg", init = "wide"}',
}
LACKING = {"code": "mine_alone", "data": "images"}


@pytest.mark.parametrize("what", OWN)
def test_a_node_that_lacks_the_users_code_or_data_is_named_with_what_it_lacks(what, cluster, tmp_path):
    if reason := why_not(OWN_MOUNTS):
        pytest.skip(reason)
    own = tmp_path / "own"
    for number in range(24):
        place = own / "images" / str(number % 2) / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 10 * number).save(place)
    (own / "mine_alone.py").write_text("from fl_privacy.models.lenet import lenet_dlg as net\n")
    (tmp_path / "own.toml").write_text(f"clients = 3\nclients_per_round = 2\nrounds = 1\n{OWN[what]}\n")
    path = os.pathsep.join([str(own), *filter(None, sys.path)])
    node = cluster.second(hidden=own)
    try:
        environment = {**cluster.environment, "PYTHONPATH": path}
        run = cluster.run(tmp_path / "own.toml", tmp_path / "out", "--data-root", str(own), environment=environment)
        code, said = ended(run)
    finally:
        node.end()
    assert code == 1, said
    assert "the Ray node (" in said
    assert "127.0.0.1" in said
    assert LACKING[what] in said.partition("lacks what this run needs")[2], said


def test_nobody_else_on_the_network_reaches_these_nodes(cluster):
    found = places(children(cluster.nodes[0].process.pid))
    assert found
    assert found <= LOOPBACK
