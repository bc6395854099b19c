"""On Ray: the same bits as in this process, and nothing that dies, hangs or fails takes the run with it."""

from __future__ import annotations

import functools
import time

import pytest
from flower_apps import CLIENTS, clients, die_once, federate, hang
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.ray import run_ray

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_and_this_process_release_the_same_bits(workers: int) -> None:
    here, _ = federate(run_local, clients(scale=0.01))
    there, grid = federate(functools.partial(run_ray, workers=workers), clients(scale=0.01))
    assert len(here) == 6
    assert there == here
    assert all(counts.received == 3 for counts in grid.rounds)


def test_a_killed_worker_costs_at_most_one_client_round(tmp_path) -> None:
    honest, _ = federate(run_local, clients(), rounds=4, share=CLIENTS)
    app = clients(fault=die_once(tmp_path / "died"))
    seen, grid = federate(functools.partial(run_ray, workers=2), app, rounds=4, share=CLIENTS)
    died, again = tmp_path / "died", tmp_path / "died.again"
    assert died.exists()
    if again.exists():
        took = again.stat().st_mtime - died.stat().st_mtime
        print(f"\nrecovery: worker, until its call was made again: {took:.1f} s")
    assert sum(counts.expected - counts.received for counts in grid.rounds) <= 1
    assert seen[:CLIENTS] == honest[:CLIENTS]
    if len(seen) == len(honest):  # Ray asked the client again: not a bit may differ
        assert seen == honest


def test_a_hanging_client_is_counted_at_the_deadline_and_its_worker_freed() -> None:
    start = time.monotonic()
    runner = functools.partial(run_ray, workers=1, client_seconds=35)
    seen, grid = federate(runner, clients(fault=hang), share=CLIENTS, deadline=30)
    first, second = grid.rounds
    assert "client 1 timed out" in first.reasons
    assert (first.received + first.timed_out, second.received) == (CLIENTS, CLIENTS)
    assert {client for round, client, _ in seen if round == 2} == {0, 1, 2, 3}
    assert time.monotonic() - start < 200  # without the hour that the client sleeps


def test_what_the_server_raises_is_raised() -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise LookupError("from the server")

    with pytest.raises(LookupError, match="from the server"):
        run_ray(server, clients(), CLIENTS, workers=1)
