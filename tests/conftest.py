"""Fixtures that several test files use."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from trees import TREES

from fl_privacy import data

KNOWN_BY_CHECKSUM = ("cifar10", "cifar100")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread, as the clients and attacks compute: more change the last bits. Importing dcor (numba) sets two."""
    torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Callable[[str], Path]:
    """data_root("mnist") is the data folder that has the set; the test is skipped, with the reason, where it is not."""

    def root_with(name: str) -> Path:
        root = data.data_root()
        if root is None:
            pytest.skip(f"needs the data set '{name}': set FL_PRIVACY_DATA to a folder that has it")
        if not data.available(name, root):
            pytest.skip(f"needs the data set '{name}', which is not in FL_PRIVACY_DATA={root}")
        return root

    return root_with


@pytest.fixture
def root_of(tmp_path: Path, data_root: Callable[[str], Path]) -> Callable[[str], Path]:
    """A folder that has the set: a made-up one, or the real one for the sets that are known by checksum."""

    def root(name: str) -> Path:
        if name in KNOWN_BY_CHECKSUM:
            return data_root(name)
        TREES[name](tmp_path)
        return tmp_path

    return root


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Flower of our own, whose daemons are stopped afterwards, by their ids."""
    home = tmp_path / "flower"
    names = ("FLWR_LOCAL_CONTROL_API_PORT", "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT")
    ports = dict(zip(names, free_ports(len(names)), strict=True))  # else it would talk to another test's Flower
    quieted = {name: "0" for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")}
    off = {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # flwr starts programs by name
    yield {**os.environ, **path, **ports, **quieted, **off, "FLWR_HOME": str(home)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = str(home) in (process / "environ").read_text(errors="replace")
        except OSError:
            continue
        if ours and int(process.name) != os.getpid():
            os.kill(int(process.name), signal.SIGTERM)
