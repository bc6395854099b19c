"""The pool's arithmetic, and an attack that runs out of memory: stubs stand for Ray and for a GPU."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Message, RecordDict

from fl_privacy.simulations.backends.pool import Outcome
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.run import pipeline
from fl_privacy.simulations.run.attack import run_here, run_in


@dataclass
class Stub:
    """A pool whose device holds `room` observations: what is submitted together shares it."""

    room: int
    queue: dict[int, object] = field(default_factory=dict)
    most: int = 0

    def submit(self, job):
        self.queue[len(self.queue) + 100 * self.most] = job
        return list(self.queue)[-1]

    def take(self, tickets, seconds):
        together = sum(len(job.seen) for job in self.queue.values())
        self.most += 1
        ended = {}
        for ticket in list(tickets):
            job = self.queue.pop(ticket)
            if together > self.room:
                ended[ticket] = SimpleNamespace(value=None, error=torch.OutOfMemoryError("no room"))
                together -= len(job.seen)
            else:
                ended[ticket] = SimpleNamespace(value=job(), error=None)
        return ended

    def cancel(self, tickets):
        for ticket in tickets:
            self.queue.pop(ticket, None)


@dataclass(frozen=True)
class Job:
    label: str
    seen: tuple[int, ...]

    def __call__(self):
        return [each * 10 for each in self.seen]


JOBS = [Job("a", (1, 2)), Job("b", (3,)), Job("c", (4, 5))]


def test_a_job_that_runs_out_of_memory_is_repeated_alone():
    lines = []
    wanted = {job.label: found for job, found in run_here(JOBS, lines.append)}
    for room, starved in ((5, 0), (4, 1), (2, 2)):
        lines.clear()
        found = {job.label: results for job, results in run_in(Stub(room))(JOBS, lines.append)}
        assert found == wanted
        assert any(f"{starved} attack calls ran out of memory" in line for line in lines) == bool(starved)


def test_one_that_runs_out_alone_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"'a' ran out of memory .* 2 observations .*attacked_clients.*--resume"):
        list(run_in(Stub(1))(JOBS, lambda text: None))


def test_capacity_is_counted_node_by_node_over_those_that_are_alive(monkeypatch):
    from fl_privacy.simulations.backends import pool

    nodes = [
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(pool.ray, "nodes", lambda: nodes)
    assert pool.capacity({"CPU": 1.0, "GPU": 0.0}) == 5
    assert pool.capacity({"CPU": 1.0, "GPU": 1 / 3}) == 3
    assert pool.capacity({"CPU": 4.0, "GPU": 0.0}) == 0


class Greeted:
    """A pool of two workers, one of which never answers."""

    def __init__(self):
        self.limits, self.cancelled = {}, set()

    def started(self, seconds):
        return 2

    def submit(self, function, *arguments, seconds):
        self.limits[len(self.limits)] = seconds
        return len(self.limits) - 1

    def take(self, tickets, seconds):
        time.sleep(seconds)
        return {0: Outcome(value=("hello", None))} if 0 in tickets else {}

    def cancel(self, tickets):
        self.cancelled |= set(tickets)


def test_a_worker_that_does_not_answer_a_greeting_is_given_up_at_its_limit(monkeypatch):
    from fl_privacy.simulations.backends import ray_grid

    monkeypatch.setattr(ray_grid.ray, "put", lambda app: app)
    workers = Greeted()
    grid = ray_grid.RayGrid(workers, None, 3, 600.0)
    hello = Message(RecordDict(), dst_node_id=grid.get_node_ids()[0], message_type="query.hello")
    start = time.monotonic()
    assert grid.greet(hello, 0.5) == ["hello"]
    assert 0.4 < time.monotonic() - start < 5
    assert workers.cancelled == {1}
    assert all(0 < each <= 0.5 for each in workers.limits.values())


class Asked(Exception):
    """The pool was asked for; what it would have done is not of interest."""


@pytest.mark.parametrize(("device", "share"), [("cuda", 0.25), ("cpu", 0.0)])
def test_workers_have_their_share_of_the_gpu_and_the_start_says_what_goes_where(device, share, tmp_path, monkeypatch):
    from fl_privacy.simulations.backends import ray as backend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked, lines = [], []

    @contextmanager
    def ray_pool(*choices):
        asked.append(choices)
        raise Asked
        yield

    monkeypatch.setattr(backend, "ray_pool", ray_pool)
    experiment = reconfigure(configure(name="tiny", dataset={"name": "digits", "size": 16}), device=device)
    checked = pipeline.plan(experiment, out=tmp_path / "run", backend="ray", workers=4)
    with pytest.raises(Asked):
        pipeline.execute(checked, lines.append)
    assert asked == [(4, None, share)]
    assert f"clients: 4 Ray workers on this machine, on the CPU; attacks and decoders: there, on {device}" in lines
