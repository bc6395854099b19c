"""What the simulation adds to the same work in a bare loop, and what a second worker brings to attacks.

    python -m benchmarks.throughput --data-root DATA --out results/throughput.json

Rounds: ten clients' gradients a round, of a small and of a large victim, in a bare torch loop, by the local backend and
on Ray. Attacks: calls of GRNN, one a round of a run, on one worker and on two that are up. The ways take turns, so that
a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.record import options, write
from benchmarks.scale import TAKING_PART, one, scaled
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.run.attack import Job, run_in
from fl_privacy.simulations.run.collect import apps
from fl_privacy.simulations.run.pipeline import plan
from fl_privacy.simulations.run.stages import ready_jobs

WAYS = {"local backend": ("local", 1), "Ray, 1 worker": ("ray", 1), "Ray, 2 workers": ("ray", 2)}


def bare(federation: Federation, rounds: int) -> float:
    """Seconds of a round in a plain loop: the same batches, gradients, mean and step, and nothing around them."""
    torch.set_num_threads(1)
    experiment, model = federation.experiment, federation.model()
    moments = [time.perf_counter()]
    for round in range(1, rounds + 2):
        total = [torch.zeros_like(each) for each in model.parameters()]
        for client in range(TAKING_PART):
            x, y = federation.batch(client, round)
            slope = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            torch._foreach_add_(total, slope)
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), total, alpha=-experiment.learning_rate / TAKING_PART)
        moments.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(moments[1:]))


def simulated(victim: str, backend: str, workers: int, rounds: int, root: str | None) -> float:
    """Seconds of a round in a process of its own."""
    how = ("--one", str(TAKING_PART), "--victim", victim, "--backend", backend, "--workers", str(workers))
    return one(*how, "--rounds", str(rounds), *(("--data-root", root) if root else ()))["round_s"]


def rounds_of(victim: str, rounds: int, repeats: int, root: str | None) -> list[dict[str, Any]]:
    """One row a way to play the rounds."""
    from fl_privacy.data import data_root

    federation = federation_of(scaled(TAKING_PART, victim, "cpu").to_json(), data_root(root))
    ways: dict[str, Callable[[], float]] = {"bare loop": lambda: bare(federation, rounds)}
    for name, (backend, workers) in WAYS.items():
        ways[name] = lambda backend=backend, workers=workers: simulated(  # type: ignore[misc]
            victim, backend, workers, rounds, root
        )
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
            print(f"{victim}, {name}: {found[name][-1]:.4f} s a round", flush=True)
    base = statistics.median(found["bare loop"])
    return [_row("rounds", victim, name, values, statistics.median(values) / base) for name, values in found.items()]


def attacks(calls: int, iterations: int, repeats: int) -> list[dict[str, Any]]:
    """One row a number of workers: seconds for all calls, and how many times as quick as one worker."""
    from fl_privacy.simulations.backends.ray import ray_pool

    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        todo = _calls(Path(folder) / "run", calls, iterations)
        for _ in range(repeats):
            for workers, values in found.items():
                with ray_pool(workers) as pool:
                    pool.started(300)
                    run = run_in(pool)
                    list(run(todo[:workers], _quiet))  # each worker's first call imports what it needs
                    start = time.perf_counter()
                    list(run(todo, _quiet))
                    values.append(time.perf_counter() - start)
                    print(f"attacks, {workers} workers: {values[-1]:.2f} s", flush=True)
    base = statistics.median(found[1])
    return [
        _row("attacks", f"{calls} calls of grnn", f"Ray, {workers} worker{'s' * (workers > 1)}", values, ratio)
        for workers, values in found.items()
        for ratio in (base / statistics.median(values),)
    ]


def _calls(folder: Path, calls: int, iterations: int) -> list[Job]:
    """The attack calls of a run: one a round, of one message each."""
    experiment = configure(
        name="throughput",
        dataset={"name": "digits", "size": 32},
        model={"name": "lenet_dlg", "init": "wide"},
        attack={"name": "grnn", "iterations": iterations, "restarts": 1, "patience": 0},
        clients=2,
        clients_per_round=1,
        rounds=calls,
        attacked_rounds=tuple(range(1, calls + 1)),
        attacked_clients=1,
    )
    logging.getLogger("flwr").setLevel(logging.WARNING)
    checked = plan(experiment, out=folder, backend="local")
    run_local(*apps(experiment, checked.root, folder, _quiet), experiment.clients)
    return ready_jobs(checked.federation, folder, lambda key: True)


def _row(what: str, of: str, how: str, values: list[float], times: float) -> dict[str, Any]:
    return {
        "what": what,
        "of": of,
        "how": how,
        "seconds": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "times": times,
    }


def _quiet(text: str) -> None:
    """Progress that nobody reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/throughput.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12, help="Of the small victim; the large one plays a third.")
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--data-root")
    chosen = parser.parse_args()
    rows = attacks(chosen.calls, chosen.iterations, chosen.repeats)
    write(chosen.out, rows, settings=options(chosen), seeds=[0])
    for victim, rounds in (("lenet", chosen.rounds), ("resnet18", max(2, chosen.rounds // 3))):
        rows += rounds_of(victim, rounds, chosen.repeats, chosen.data_root)
        write(chosen.out, rows, settings=options(chosen), seeds=[0])


if __name__ == "__main__":
    main()
