"""What clients cost that exist and do not take part: start-up, a round and memory at 10 to 10,000 clients of MNIST.

    python -m benchmarks.scale --out results/scale.json
    python -m benchmarks.scale --backend local --out results/scale_local.json   # without Ray

Every measurement is a process of its own, on a Ray of its own; the client counts take turns, so that a busy moment of
the machine hits all of them. `ready_s` is from the first line of that process (imports, data, Ray, workers) to the
moment when the first round can begin; `round_s` the median of the rounds after the first. The same in seconds of
processor time, driver and workers together (`..._cpu_s`), which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import time

BEGUN = time.perf_counter()  # before anything heavy is imported: that is part of a start

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp

    from fl_privacy.simulations.backends.pool import Pool
    from fl_privacy.simulations.experiment.spec import Experiment
    from fl_privacy.simulations.federation import Federation

VICTIMS = {
    "lenet": {"dataset": {"name": "mnist"}, "model": {"name": "lenet_dlg", "init": "wide"}, "batch_size": 4},
    "digits": {"dataset": {"name": "digits", "size": 32}, "model": {"name": "lenet_dlg"}, "batch_size": 32},
    "resnet18": {"dataset": {"name": "digits", "size": 32}, "model": {"name": "resnet18"}, "batch_size": 32},
}
"""What the clients hold and train: the digits are embedded, and as large as CIFAR-10's images."""
COUNTS, TAKING_PART = (10, 100, 1_000, 10_000), 10
TRIES = 4
COMPARED = ("ready_s", "ready_cpu_s", "round_s", "round_cpu_s")
MEASURES = ("data_s", *COMPARED, "driver_mb", "worker_mb")


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    clients: int, rounds: int, backend: str, workers: int, root: str | None, victim: str, device: str
) -> dict[str, float]:
    """Run `rounds` rounds of gradient sharing in which 10 of `clients` clients take part."""
    from fl_privacy.data import data_root
    from fl_privacy.simulations.backends.local import run_local
    from fl_privacy.simulations.backends.ray import ray_pool, run_in_pool
    from fl_privacy.simulations.config.build import federation_of
    from fl_privacy.simulations.config.resolve import channel_of
    from fl_privacy.simulations.run.collect import federation_for

    experiment, folder = scaled(clients, victim, device), data_root(root)
    start = time.perf_counter()
    federation = federation_of(experiment.to_json(), folder)
    found = {"data_s": time.perf_counter() - start}
    app = channel_of(experiment).rounds.client(partial(federation_for, experiment.to_json(), folder))
    if backend == "local":
        run_local(timed_server(federation, rounds, time.process_time, found), app, clients)
        return {**found, "driver_mb": peak_mb(), "worker_mb": 0.0}
    with ray_pool(workers, gpus_per_worker=1 / workers if device == "cuda" else 0.0) as pool:

        def used() -> float:
            return time.process_time() + sum(on_workers(pool, workers, time.process_time))

        run_in_pool(pool, timed_server(federation, rounds, used, found), app, clients, client_seconds=600)
        return {**found, "driver_mb": peak_mb(), "worker_mb": max(on_workers(pool, workers, peak_mb))}


def scaled(clients: int, victim: str, device: str) -> Experiment:
    """Gradient sharing by 10 of `clients` clients a round."""
    from fl_privacy.simulations.config.load import configure

    return configure(
        name="scale",
        clients=clients,
        clients_per_round=TAKING_PART,
        attacked_clients=1,
        device=device,
        **VICTIMS[victim],
    )


def on_workers(pool: Pool, workers: int, ask: Callable[[], float]) -> list[float]:
    """What each worker answers: all are free, so that each gets one of the calls."""
    tickets = [pool.submit(ask) for _ in range(workers)]
    answers = list[float]()
    while len(answers) < workers:
        answers += [outcome.value for outcome in pool.take(tickets, 1).values()]
    return answers


def timed_server(federation: Federation, rounds: int, used: Callable[[], float], found: dict[str, float]) -> ServerApp:
    """A server that writes into `found` when it was ready and how long a round took; `used`: seconds of processors."""
    from flwr.app import ConfigRecord, Context
    from flwr.serverapp import Grid, ServerApp

    from fl_privacy.simulations.config.resolve import channel_of
    from fl_privacy.strategies.federated.fedsgd import GradientSharing
    from fl_privacy.strategies.records import ValidatingGrid, pack

    experiment, moments, server = federation.experiment, list[float](), ServerApp()

    @server.main()
    def main(inner: Grid, context: Context) -> None:
        schemas = channel_of(experiment).rounds.schemas(federation)
        grid = ValidatingGrid(inner, experiment.clients, schemas=schemas)
        grid.get_node_ids()
        found["ready_s"], found["ready_cpu_s"] = time.perf_counter() - BEGUN, used()
        strategy = GradientSharing(TAKING_PART, experiment.learning_rate, seed=0)
        initial = pack(federation.model().state_dict())
        config = ConfigRecord({"condition": 0})
        strategy.start(grid, initial, 1, train_config=config)
        before = used()
        strategy.start(
            grid, initial, rounds, train_config=config, evaluate_fn=lambda *_: moments.append(time.perf_counter())
        )
        found["round_cpu_s"] = (used() - before) / rounds
        found["round_s"] = statistics.median(after - start for start, after in itertools.pairwise(moments))
        assert all(each.received == TAKING_PART for each in grid.rounds)

    return server


def one(*choices: str) -> dict[str, float]:
    """`measure` in a process of its own, which is begun again where Ray gave its start up."""
    for _ in range(TRIES):  # after 30 s, as on a busy machine
        command = [sys.executable, "-m", "benchmarks.scale", *choices]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return found
    raise SystemExit(done.stderr)


def main() -> None:
    from benchmarks.record import options, write

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/scale.json"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--backend", default="ray", choices=("ray", "local"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-root")
    parser.add_argument("--victim", default="lenet", choices=tuple(VICTIMS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", type=int, help="Measure this number of clients once, here, and print it.")
    chosen = parser.parse_args()
    if chosen.one:
        how = (chosen.rounds, chosen.backend, chosen.workers, chosen.data_root, chosen.victim, chosen.device)
        print(json.dumps(measure(chosen.one, *how)))
        return
    found: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    for repeat in range(chosen.repeats):
        for count in COUNTS:
            found[count].append(one(*sys.argv[1:], "--one", str(count)))
            print(f"{repeat + 1} of {chosen.repeats}: {count} clients: {found[count][-1]}", flush=True)
    rows = [_row(count, each, found[COUNTS[0]]) for count, each in found.items()]
    write(chosen.out, rows, settings=options(chosen), seeds=[0], taking_part=TAKING_PART)


def _row(count: int, measured: list[dict[str, float]], fewest: list[dict[str, float]]) -> dict[str, object]:
    """The medians, the range, and how they compare with the smallest number of clients."""
    row: dict[str, object] = {"clients": count, "repeats": len(measured)}
    for key in MEASURES:
        values = [each[key] for each in measured]
        row |= {key: statistics.median(values), f"{key}_low": min(values), f"{key}_high": max(values)}
    for key in COMPARED:
        row[f"{key}_ratio"] = statistics.median([each[key] for each in measured]) / statistics.median(
            [each[key] for each in fewest]
        )
    return row


if __name__ == "__main__":
    main()
