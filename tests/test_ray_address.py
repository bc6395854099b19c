"""A Ray address that nobody serves is told at once, by its name, before a run folder is made."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from fl_privacy.simulations import load_experiment
from fl_privacy.simulations.backends import addresses
from fl_privacy.simulations.backends.addresses import check_address, ray_address
from fl_privacy.simulations.run.pipeline import plan


@pytest.fixture
def dead() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """Something that listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_run_names_the_dead_address_and_the_mend_within_15_seconds_and_makes_no_folder(dead, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", dead)
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"nobody serves the Ray address '{dead}'.*ray start --head.*RAY_ADDRESS"):
        plan(load_experiment("quickstart"), out=tmp_path / "run", backend="ray")
    assert time.monotonic() - start < 15
    assert not (tmp_path / "run").exists()
    assert plan(load_experiment("quickstart"), out=tmp_path / "here", backend="local").address is None


def test_an_address_that_is_given_counts_before_the_environments(dead, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match=f"nobody serves the Ray address '{dead}'"):
        plan(load_experiment("quickstart"), out=tmp_path / "run", backend="ray", address=dead)


def test_what_listens_and_is_no_ray_is_told_too(mute, monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ValueError, match="is no Ray head"):
        check_address(mute)


def test_a_host_that_never_answers_ends_in_time(monkeypatch):
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.2)

    def never(address: object, timeout: float) -> None:
        threading.Event().wait(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(addresses.socket, "create_connection", never)
    with pytest.raises(ValueError, match="timed out"):
        check_address("10.255.255.1:6379")


@pytest.mark.parametrize("odd", ["nonsense://nowhere:1", "6379", "host:", "host:port", "a b:1", "127.0.0.1:99999"])
def test_what_is_no_address_is_told(odd):
    with pytest.raises(ValueError, match="Ray address"):
        check_address(odd)


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_one_that_answers_passes(form):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check_address(form.format(f"127.0.0.1:{port}"))
    finally:
        server.stop(None)


@pytest.mark.parametrize(("said", "meant"), [("", None), ("local", None), ("h:1", "h:1"), ("auto", "auto")])
def test_rays_own_words(said, meant, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", said)
    assert ray_address() == meant
    assert ray_address("other:2") == "other:2"
