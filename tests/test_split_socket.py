"""The socket past Ray: the same bits as without it, and neither dead processes nor malformed frames keep anybody."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from listening import split_sockets
from split_apps import client_task, learn, model

from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.ray import run_ray
from fl_privacy.split.loop import state_of
from fl_privacy.split.segments import ServerSegment, segments
from fl_privacy.strategies.records import client_of
from fl_privacy.strategies.split import strategy, transport_socket
from fl_privacy.strategies.split.server import SplitServer
from fl_privacy.strategies.split.strategy import split_app
from fl_privacy.strategies.split.transport_ray import RaySplitServer
from fl_privacy.strategies.split.transport_socket import (
    MalformedFrame,
    RefusedByServer,
    dial,
    listen,
    receive,
    send,
)

SECONDS = 60.0
STEP = {"turn": [0, 0], "call": "step"}


def until(there, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        time.sleep(0.02)
    return there()


def release(value=0.0):
    return torch.full((8, 4, 6, 6), value), torch.zeros(8, dtype=torch.long)


def split_server(order, patience=SECONDS) -> RaySplitServer:
    """Without Ray, in this process."""
    _, module = segments(model(), client_task().rules)
    server = RaySplitServer(module, client_task().rules, 0, patience=patience)
    server.begin(order, None)
    return server


@contextmanager
def raw(name: str) -> Iterator[socket.socket]:
    """A connection of which a test writes the bytes itself."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(f"\0{name}")
        yield connection


def test_tensors_come_back_bit_for_bit_with_dtype_and_shape():
    sent = [
        torch.tensor([1.0, -0.0, 1e-45, float("nan"), float("inf")]),
        torch.tensor(0.1, dtype=torch.float64),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 3),
        torch.rand(3, 500, 700),
        torch.tensor([True, False]),
        torch.ones(2, dtype=torch.bfloat16),
    ]
    name = listen(lambda turn, call, tensors: tensors)
    with dial(name, SECONDS) as transport:
        back = transport((0, 0)).carry("step", sent)
    for a, b in zip(sent, back, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.contiguous().reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))


def test_a_client_has_its_answer_before_the_server_has_settled():
    settled = threading.Event()
    name = listen(lambda turn, call, tensors: tensors, functools.partial(settled.wait, SECONDS))
    with dial(name, SECONDS) as transport:
        assert transport((0, 0)).carry("step", [torch.ones(3)])[0].equal(torch.ones(3))
        assert not settled.is_set()
        settled.set()
        assert transport((0, 1)).carry("step", [torch.zeros(3)])[0].equal(torch.zeros(3))


def test_the_server_descends_before_it_shows_its_weights_and_before_the_next_pass():
    rules = client_task().rules
    (_, own), (_, other) = segments(model(), rules), segments(model(), rules)
    at_once, server = ServerSegment(own, rules), SplitServer(other, rules, 0)
    turns = [(0, step) for step in range(3)]
    server.begin(turns, None)
    before = state_of(other)
    for turn in turns:
        gradient, loss = at_once.step(*release())
        answer = server.serve(turn, "step", release())
        assert answer[0].equal(gradient)
        assert answer[1].item() == loss
    after = server.state()
    assert all(value.equal(after[key]) for key, value in state_of(own).items())
    assert not all(value.equal(before[key]) for key, value in after.items())
    assert all(value.equal(server.kept()[0][key]) for key, value in at_once.kept()[0].items())


def use_only(way, monkeypatch) -> list[str]:
    """Let clients reach the Ray server this way alone; the names of the sockets that were told to them."""
    told, opened = [], strategy.open_transport

    def told_half(*settings):
        transport = opened(*settings)
        told.append(transport.address["socket"])
        # a server of another name is one that no call reaches
        left = {"server": transport.address["server"]} if way == "calls" else {"socket": told[-1], "server": "nobody"}
        transport.address = {"link": "ray", **left}
        return transport

    monkeypatch.setattr(strategy, "open_transport", told_half)
    return told


@pytest.mark.ray
@pytest.mark.parametrize("way", ["socket", "calls"])
def test_both_ways_to_the_ray_server_give_the_bits_of_one_process(way, monkeypatch):
    settings = {"parallel": True, "together": 2}
    here, seen_here, _, _, _ = learn(run_local, "local", **settings)
    told = use_only(way, monkeypatch)
    there, seen_there, _, _, grid = learn(functools.partial(run_ray, workers=2), "ray", **settings)
    assert told
    assert all(torch.equal(value, there[name]) for name, value in here.items())
    for a, b in zip(seen_there, seen_here, strict=True):
        assert torch.equal(a.payload["activation"], b.payload["activation"])
    assert all(counts.received == counts.expected for counts in grid.rounds)
    assert until(lambda: not split_sockets() & set(told)), "a socket ends with its run"


def dying(whose):
    """The suite's client app, in which client 0 ends a process just before its second mini-batch."""
    shared = client_task()

    def task_of(message, context):
        client = client_of(context)

        def batch(number, round, step):
            if (client, step) == (0, 1):
                end_process(whose)
            return shared.batch(number, round, step)

        return replace(shared, batch=batch)

    return split_app(task_of)


def end_process(whose):
    if whose == "client's":
        os.kill(os.getpid(), signal.SIGKILL)
    import ray

    (found,) = [each for each in ray.util.list_named_actors(all_namespaces=True) if each["namespace"] == "fl-privacy"]
    ray.kill(ray.get_actor(found["name"], namespace="fl-privacy"))


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_client_that_is_killed_in_its_turn_is_given_up_and_the_others_go_on(monkeypatch):
    told = use_only("socket", monkeypatch)
    settings = {"parallel": True, "together": 2, "patience": 5.0, "rounds": 1}
    weights, _, _, result, grid = learn(functools.partial(run_ray, workers=2), "ray", dying("client's"), **settings)
    assert result.train_metrics_clientapp[1]["clients"] == 2
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert any("OutOfTurn" in reason for counts in grid.rounds for reason in counts.reasons)
    assert until(lambda: not split_sockets() & set(told))


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_in_a_turn_ends_the_run(monkeypatch):
    from ray.exceptions import RayActorError

    told = use_only("socket", monkeypatch)
    with pytest.raises(RayActorError):
        learn(functools.partial(run_ray, workers=1), "ray", dying("server's"), rounds=1)
    assert until(lambda: not split_sockets() & set(told))


def half_a_frame(name):
    """A client's process that dies while it sends."""
    with raw(name) as connection:
        connection.sendall(json.dumps({**STEP, "tensors": [["float32", [8, 4, 6, 6]]]}).encode() + b"\n" + bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_client_that_dies_within_a_frame_keeps_its_turn_for_who_repeats_it():
    server = split_server([(0, 0), (1, 0)])
    name = server.listen()
    dead = multiprocessing.get_context("fork").Process(target=half_a_frame, args=(name,))
    dead.start()
    dead.join(SECONDS)
    assert dead.exitcode == -signal.SIGKILL
    with dial(name, SECONDS) as transport:
        for client in (0, 1):
            gradient, loss = transport((client, 0)).step(*release())
            assert gradient.isfinite().all()
            assert loss > 0
    assert server.server.next() is None


def deaf_server(pipe):
    """A server's process that never answers."""
    pipe.send(listen(lambda turn, call, tensors: time.sleep(600)))
    time.sleep(600)


def test_a_client_hears_at_once_that_the_server_is_dead_and_in_time_that_it_is_deaf():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=deaf_server, args=(theirs,))
    process.start()
    try:
        name = ours.recv()
        with dial(name, 0.2) as transport, pytest.raises(TimeoutError):
            transport((0, 0)).step(*release())
        with dial(name, SECONDS) as transport:
            connection = transport((0, 0))
            process.kill()
            process.join(SECONDS)
            with pytest.raises(ConnectionError):
                connection.step(*release())
    finally:
        process.kill()
    assert name not in split_sockets()
    with dial(name, SECONDS) as transport:
        assert transport is None, "so that the client calls by Ray"


LINES = {
    "no JSON": b"pickle!\n",
    "no frame of this link": b"[1, 2]\n",
    "nested without end": b"[" * 60_000 + b"\n",
    "no end of the line": b"x" * 2**16,
    "another dtype": json.dumps({**STEP, "tensors": [["complex64", [2]]]}).encode() + b"\n",
    "an object": json.dumps({**STEP, "tensors": [["object", [2]]]}).encode() + b"\n",
    "a negative side": json.dumps({**STEP, "tensors": [["float32", [-1, 2]]]}).encode() + b"\n",
    "a side that is no number": json.dumps({**STEP, "tensors": [["float32", ["2"]]]}).encode() + b"\n",
    "more than there is memory for": json.dumps({**STEP, "tensors": [["float32", [2**40, 2**40]]]}).encode() + b"\n",
    "no turn": json.dumps({"turn": [0], "call": "step", "tensors": []}).encode() + b"\n",
    "no call": json.dumps({"turn": [0, 0], "call": "__class__", "tensors": []}).encode() + b"\n",
    "the end within the tensors": json.dumps({**STEP, "tensors": [["float32", [8]]]}).encode() + b"\n" + bytes(31),
    "the end within the header": b'{"turn": [0, 0]',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_bytes_that_are_no_frame_are_refused_by_name_and_others_served(line):
    server = split_server([(0, 0)])
    name = server.listen()
    with raw(name) as connection, connection.makefile("rb") as stream:
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        header, _ = receive(stream)
        assert header["error"].startswith("MalformedFrame: ")
        assert stream.read() == b"", "and hears no more"
    with dial(name, SECONDS) as transport:
        assert transport((0, 0)).step(*release())[1] > 0


WRONG = {
    "another shape": ((torch.zeros(8, 5, 6, 6), release()[1]), "RuntimeError"),
    "another dtype": ((release()[0].double(), release()[1]), "RuntimeError"),
    "labels that there are not": ((release()[0], torch.full((8,), 9)), "IndexError"),
    "no labels": ((release()[0],), "IndexError"),
    "NaN": (release(float("nan")), "NonFinite: step 0 of client 0 has NaN"),
    "infinity": (release(float("inf")), "NonFinite"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("way", ["socket", "calls"])
def test_a_release_that_the_server_cannot_use_is_refused_by_name_and_its_client_dropped(way, wrong, reason):
    server = split_server([(0, 0), (1, 0), (0, 1)])
    if way == "socket":
        with dial(server.listen(), SECONDS) as transport, pytest.raises(RefusedByServer, match=f"^{reason}"):
            transport((0, 0)).carry("step", list(wrong))
    else:
        with pytest.raises((RuntimeError, IndexError, ValueError)) as raised:
            server.serve((0, 0), "step", *[tensor.numpy() for tensor in wrong])
        assert reason.startswith(raised.type.__name__)
    assert server.server.next() == (1, 0)
    server.serve((1, 0), "step", *[tensor.numpy() for tensor in release()])
    assert server.server.next() is None
    assert all(value.isfinite().all() for value in server.state().values())


def test_who_is_out_of_turn_is_told_so_and_may_ask_again():
    server = split_server([(0, 0)])
    with dial(server.listen(), SECONDS) as transport:
        with pytest.raises(RefusedByServer, match=r"^OutOfTurn: step 3 of client 5"):
            transport((5, 3)).step(*release())
        assert transport((0, 0)).step(*release())[1] > 0


def test_clients_wait_for_their_turn_and_not_for_ever():
    server = split_server([(0, 0), (1, 0)], patience=0.3)
    with dial(server.listen(), SECONDS) as transport:
        assert transport((1, 0)).step(*release())[1] > 0
    assert server.server.next() is None, "the client that kept another waiting is dropped"


def test_another_user_is_not_answered(monkeypatch):
    name = listen(lambda turn, call, tensors: tensors)
    monkeypatch.setattr(transport_socket.os, "getuid", lambda: 10**6)
    with dial(name, SECONDS) as transport:
        assert transport is None
    with raw(name) as connection:
        assert connection.recv(1) == b""


def test_where_there_are_no_such_sockets_the_link_is_rays(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(socket, "SO_PEERCRED")
        assert listen(lambda turn, call, tensors: tensors) is None
    with dial(None, SECONDS) as transport:
        assert transport is None


def test_what_is_half_read_is_malformed():
    a, b = socket.socketpair()
    with a, b, b.makefile("rb") as stream:
        send(a, {"error": "x"})
        assert receive(stream) == ({"error": "x", "tensors": []}, [])
        a.sendall(b"{")
        a.close()
        with pytest.raises(MalformedFrame, match="within its header"):
            receive(stream)
        assert receive(stream) is None
