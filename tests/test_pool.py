"""The pool's arithmetic, and an attack that runs out of memory: stubs stand for Ray and for a GPU."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Message, RecordDict
from ray.exceptions import RayActorError, RayTaskError
from test_resume_channels import ACTIVATION

from fl_privacy.simulations.backends import pool
from fl_privacy.simulations.backends.clients import answer, identify
from fl_privacy.simulations.backends.pool import Outcome
from fl_privacy.simulations.backends.ray_grid import STARVED
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.run import gpu_share, pipeline
from fl_privacy.simulations.run.attack import run_here, run_in
from fl_privacy.simulations.run.gpu_share import check_share


class Raised(RayTaskError, torch.OutOfMemoryError):
    """What Ray makes of an error in a worker."""

    def __init__(self, cause):
        self.cause = cause


class Reference:
    """What stands for a call that is under way."""


class Gpu:
    """A stub of Ray, `workers` of which share a device that holds `room`: all that is under way is there at once."""

    def __init__(self, room, workers=4):
        self.room, self.workers, self.calls, self.most = room, workers, {}, []
        self.alive = True

    def nodes(self):
        return [{"Alive": self.alive, "NodeID": "here", "Resources": {"CPU": float(self.workers), "GPU": 1.0}}]

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "here")

    def remote(self, kind):
        def begin(call=None):
            reference = Reference()
            self.calls[reference] = call
            return reference

        def actor(prepare):
            return SimpleNamespace(
                ready=SimpleNamespace(remote=begin), call=SimpleNamespace(remote=lambda *words: begin(words))
            )

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=actor))

    def wait(self, watched, num_returns=1, timeout=None):
        if timeout == 0:
            return [], watched
        together = [self.calls[each] for each in watched if self.calls[each] is not None]
        needed = sum(len(call[0].seen) for call in together)
        if together:
            self.most.append(len(together))
        for reference in watched:
            call = self.calls[reference]
            if call is not None and needed > self.room:
                needed -= len(call[0].seen)
                self.calls[reference] = torch.OutOfMemoryError("no room")
            elif call is not None:
                self.calls[reference] = call[0]()
        return list(watched), []

    def get(self, reference):
        found = self.calls.pop(reference)
        if isinstance(found, Exception):
            raise Raised(found)
        return found

    def kill(self, actor):
        """Nothing is lost."""


@dataclass(frozen=True)
class Job:
    label: str
    seen: tuple[int, ...]
    order: int = 0

    @property
    def name(self):
        return self.label

    def __call__(self):
        return [each * 10 for each in self.seen]


JOBS = [Job("a", (1, 2)), Job("b", (3,)), Job("c", (4, 5)), Job("d", (6, 7))]


@pytest.mark.parametrize(("room", "together"), [(7, math.inf), (5, 2), (4, 2), (3, 2), (2, 1)])
def test_calls_that_run_out_of_memory_are_made_again_fewer_at_a_time(room, together, monkeypatch):
    gpu, lines = Gpu(room), []
    monkeypatch.setattr(pool, "ray", gpu)
    workers = pool.Pool(lambda: None, gpus=0.25)
    found = {job.label: results for job, results in run_in(workers)(JOBS, lines.append)}
    assert found == {job.label: results for job, results in run_here(JOBS, lines.append)}
    assert workers.together == together
    assert gpu.most[0] == 4
    assert any("ran out of memory beside others" in line for line in lines) == bool(workers.starved)
    assert bool(workers.starved) == (together < math.inf)


def test_one_that_runs_out_alone_says_what_to_do(monkeypatch):
    monkeypatch.setattr(pool, "ray", Gpu(1))
    with pytest.raises(RuntimeError, match=r"ran out of memory .* 2 observations .*attacked_clients.*--resume"):
        list(run_in(pool.Pool(lambda: None))(JOBS, lambda text: None))


def test_a_client_that_runs_out_of_memory_is_asked_again_and_one_that_does_alone_is_lost_by_name(monkeypatch):
    def hungry(message, context):
        raise torch.OutOfMemoryError("CUDA out of memory")

    identify()
    hello = Message(RecordDict(), dst_node_id=1000, message_type="query.hello")
    with pytest.raises(torch.OutOfMemoryError):
        answer(hungry, hello, None, STARVED)  # which the pool sees
    reply, state = answer(hungry, hello, None)
    assert "OutOfMemoryError" in reply.error.reason
    assert state is None


def test_where_this_processs_own_node_is_dead_the_next_look_says_so(monkeypatch):
    gpu = Gpu(7)
    monkeypatch.setattr(pool, "ray", gpu)
    monkeypatch.setattr(pool, "RECOUNT_SECONDS", 0.0)
    workers = pool.Pool(lambda: None)
    gpu.alive = False
    with pytest.raises(pool.LostNode, match="--resume"):
        list(run_in(workers)(JOBS, lambda text: None))
    assert not workers.size, "nothing more is asked of Ray"


class Dying(Gpu):
    """Two nodes of one worker each, the second of which dies before its worker runs, which `looks` do not show yet."""

    def __init__(self, looks=0, init_failed=False):
        super().__init__(7, workers=1)
        self.looks, self.init_failed, self.begun, self.before = looks, init_failed, 0, None

    def nodes(self):
        self.looks -= self.before is not None
        other = {"Alive": self.before is None or self.looks >= 0, "NodeID": "there", "Resources": {"CPU": 1.0}}
        return [*super().nodes(), other]

    def wait(self, watched, num_returns=1, timeout=None):
        """Whatever was started since the death waits for a node that is none."""
        able = [each for each in watched if self.before is None or each in self.before]
        return super().wait(able, num_returns, timeout)

    def get(self, reference):
        self.begun += 1
        if self.begun == 2:
            self.before = set(self.calls)
            raise RayActorError(error_msg="the actor's node was terminated", actor_init_failed=self.init_failed)
        return super().get(reference)


@pytest.mark.parametrize("looks", [0, 3])
def test_a_node_that_dies_before_its_worker_runs_costs_that_worker_alone(looks, monkeypatch):
    monkeypatch.setattr(pool, "ray", Dying(looks))
    monkeypatch.setattr(pool, "RECOUNT_SECONDS", 0.0)
    workers = pool.Pool(lambda: None)
    assert workers.size == 2
    start = time.monotonic()
    assert workers.started(60.0) == workers.size == 1
    assert time.monotonic() - start < 30


def test_a_worker_that_cannot_be_prepared_is_told(monkeypatch):
    monkeypatch.setattr(pool, "ray", Dying(init_failed=True))
    with pytest.raises(RuntimeError, match="could not start: the actor's node"):
        pool.Pool(lambda: None).started(5.0)


def test_capacity_is_counted_node_by_node_over_those_that_are_alive():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert pool.capacity(nodes, {"CPU": 1.0, "GPU": 0.0}) == 5
    assert pool.capacity(nodes, {"CPU": 1.0, "GPU": 1 / 3}) == 3
    assert pool.capacity(nodes, {"CPU": 4.0, "GPU": 0.0}) == 0


class Greeted:
    """A pool of two workers, one of which never answers."""

    def __init__(self):
        self.limits, self.cancelled = {}, set()

    def started(self, seconds):
        return 2

    def submit(self, function, *arguments, seconds, urgent):
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


class Memory:
    """A stub of a GPU of so many MiB, on which a client's peak is `peak` MiB; everything stays on the CPU."""

    def __init__(self, monkeypatch, peak, whole):
        self.moved, to = [], torch.nn.Module.to
        monkeypatch.setattr(torch.nn.Module, "to", lambda module, place: self.moved.append(place) or to(module, "cpu"))
        move = torch.Tensor.to
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, place, *more: move(tensor, cpu_for(place), *more))
        cuda = {
            "is_available": lambda: True,
            "reset_peak_memory_stats": lambda: self.moved.clear(),
            "max_memory_allocated": lambda: peak * 2**20 if self.moved else 0,
            "device_count": lambda: 1,
            "empty_cache": lambda: None,
            "get_device_properties": lambda place: SimpleNamespace(name="stub", total_memory=whole * 2**20),
        }
        for name, found in cuda.items():
            monkeypatch.setattr(torch.cuda, name, found)


def cpu_for(place):
    return "cpu" if isinstance(place, torch.device) and place.type == "cuda" else place


@pytest.mark.parametrize(
    ("device", "peak", "asked_for", "share", "words"),
    [
        ("cuda", 100, None, 0.25, "a client took 100 MiB of its 8192 when it was tried"),
        (
            "cuda",
            3000,
            None,
            (1.25 * 3000 + 512) / 8192,
            "took 3000 MiB of its 8192 when it was tried, so that 1 share a GPU",
        ),
        ("cuda", 9000, None, 1.0, "took 9000 MiB of its 8192"),
        ("cuda", 100, 0.5, 0.5, "each Ray worker has 0.5 of a GPU: as was asked for"),
        ("cpu", 100, None, 0.0, ""),
    ],
)
def test_workers_have_their_share_of_the_gpu_and_the_start_says_what_goes_where(
    device, peak, asked_for, share, words, tmp_path, monkeypatch
):
    from fl_privacy.simulations.backends import ray as backend

    Memory(monkeypatch, peak, 8192)
    asked, lines = [], []

    @contextmanager
    def ray_pool(*choices):
        asked.append(choices[:3])
        raise Asked
        yield

    monkeypatch.setattr(backend, "ray_pool", ray_pool)
    experiment = reconfigure(configure(name="tiny", dataset={"name": "digits", "size": 16}), device=device)
    checked = pipeline.plan(experiment, out=tmp_path / "run", backend="ray", workers=4, gpu_per_client=asked_for)
    with pytest.raises(Asked):
        pipeline.execute(checked, lines.append)
    assert asked == [(4, None, pytest.approx(share))]
    assert words in " ".join(lines)
    assert ("of a GPU" in " ".join(lines)) == (device == "cuda")
    (told,) = [line for line in lines if line.startswith("clients, split servers and attacks: ")]
    assert f"4 Ray workers on this machine, on {device}; joint training: this process, on {device}" in told


@pytest.mark.parametrize(
    ("share", "backend", "device", "words"),
    [
        (0.0, "ray", "cuda", "above 0 and at most 1, not 0.0"),
        (2.0, "ray", "cuda", "above 0 and at most 1, not 2.0"),
        (0.5, "local", "cuda", "backend 'local'"),
        (0.5, "ray", "cpu", "device 'cpu'"),
    ],
)
def test_a_share_that_no_worker_can_have_is_refused_before_anything_starts(share, backend, device, words):
    with pytest.raises(ValueError, match=words):
        check_share(share, backend, device)
    check_share(None, backend, device)


def test_clients_that_take_turns_at_once_keep_a_worker_each(tmp_path, monkeypatch):
    Memory(monkeypatch, 9000, 8192)
    here = federation_of(ACTIVATION.to_json(), None)
    there = replace(here, experiment=reconfigure(ACTIVATION, device="cuda"))
    monkeypatch.setattr(pipeline, "check", lambda *_: pipeline.Ready(there, None, 2, (), None))
    with pytest.raises(ValueError, match="each needs a Ray worker of its own, or is given up: there are 1"):
        pipeline.plan(ACTIVATION, out=tmp_path / "run", workers=2, gpu_per_client=0.6)
    share, words = gpu_share.probed_share(there, 2, 2)
    assert share == 0.5
    assert "took 9000 MiB" in words
