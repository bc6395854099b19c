"""Speed of split learning: distance correlation, a NoPeek step, and mini-batches a second by link.

python -m benchmarks.split [--out results/split_speed.json] [--steps 1000] [--rounds 9]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from benchmarks.record import options, write
from benchmarks.split_federation import RULES, bare_loop, clients, model
from benchmarks.table_parts import Row
from benchmarks.textbook_dcor import distance_correlation_by_pairs
from fl_privacy.defences.base import Chain
from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.metrics.distance_correlation import distance_correlation
from fl_privacy.models import build_model
from fl_privacy.observation import Spec
from fl_privacy.seeding import stream
from fl_privacy.simulations.backends.ray import run_ray
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ServerSegment, client_step, segments
from fl_privacy.strategies.records import ValidatingGrid, pack
from fl_privacy.strategies.split.strategy import SplitLearning, SplitSettings, split_schemas
from fl_privacy.strategies.split.transport import LinkKind

BARE_STEPS = 500
OVERHEAD = "<= 1 ms more than the bare loop"


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of `work()` over `repeats` calls, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def forward_and_backward(value: Callable[..., torch.Tensor], *arguments: object) -> None:
    torch.autograd.backward(value(*arguments))


def correlation_rows() -> list[Row]:
    """Forward and backward at n = 128, x 784 and z 500 wide, against the pairwise loop on the same numbers."""
    x = torch.rand(128, 784, generator=stream(0, "x"))
    z = torch.rand(128, 500, generator=stream(0, "z")).requires_grad_()
    by_pairs = seconds(functools.partial(forward_and_backward, distance_correlation_by_pairs, x, z), 3)
    rows = []
    for estimator in ("squared", "euclidean", "unbiased"):
        own = seconds(functools.partial(forward_and_backward, distance_correlation, x, z, estimator), 30)
        rows.append(
            {"what": f"distance correlation, {estimator}", "ms": own * 1e3, "pairwise_ms": by_pairs * 1e3,
             "times_faster": by_pairs / own, "target": ">= 60"}
        )  # fmt: skip
    return rows


def nopeek_row() -> Row:
    """One training step of the split CNN at batch 128, with the term and without, alternating."""
    x, y = torch.rand(128, 1, 28, 28, generator=stream(0)), torch.randint(10, (128,), generator=stream(1))
    rules = SplitRules(cut=("fc1",))
    times: dict[float, list[float]] = {0.0: [], 0.5: []}
    sides = {}
    for weight in times:
        client, module = segments(build_model("split_cnn", (1, 28, 28), 10, 0), rules)
        sides[weight] = client, ServerSegment(module, rules), Chain((NoPeek(weight),))
    for repeat in range(9):
        for weight, (client, server, chain) in sides.items():
            start = time.perf_counter()
            client_step(client, x, y, chain, server, repeat)
            times[weight].append(time.perf_counter() - start)
    plain, nopeek = (statistics.median(times[weight][2:]) for weight in times)
    return {"what": "NoPeek step, batch 128", "ms": nopeek * 1e3, "plain_ms": plain * 1e3,
            "ratio": nopeek / plain, "target": "<= 1.3"}  # fmt: skip


def times(link: LinkKind, count: int, steps: int, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds a mini-batch of every round after the first, all clients together, and of the bare loop beside it.

    A bare loop runs between any two rounds, because the speed of a shared machine drifts, and the clients have nothing
    to do meanwhile; beside a round is the mean of the one before and the one after.
    """
    found: list[tuple[float, float]] = []

    class Timed(SplitLearning):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            start = time.perf_counter()
            super().configure_train(server_round, arrays, config, grid)
            took = time.perf_counter() - start
            found.append((1e3 * took / (count * steps), 1e3 / bare_loop(BARE_STEPS)))
            return []

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        settings = SplitSettings(link=link, clients_per_round=count, parallel=True, together=count)
        strategy = Timed(model, RULES, settings, Spec(image_shape=(1, 28, 28), classes=10, batch_size=32))
        validating = ValidatingGrid(grid, count, schemas=split_schemas())
        strategy.start(validating, pack(model().state_dict()), rounds)
        assert all(counts.received == counts.expected for counts in validating.rounds)

    run_ray(server, clients(steps), count, workers=count)
    return [(link_ms, (before + after) / 2) for (_, before), (link_ms, after) in pairwise(found)]


def beside_bare(found: list[tuple[float, float]]) -> Row:
    """The median speed of some rounds, and what they cost beside the bare loop: in ms a mini-batch, and as a share."""
    shares, overheads = [bare / ms for ms, bare in found], [ms - bare for ms, bare in found]
    return {"steps_per_s": statistics.median(1e3 / ms for ms, _ in found),
            "overhead_ms": statistics.median(overheads),
            "overhead_least_ms": min(overheads), "overhead_greatest_ms": max(overheads),
            "share_of_bare": statistics.median(shares), "share_least": min(shares), "share_greatest": max(shares),
            "rounds": len(found), "target": OVERHEAD}  # fmt: skip


def link_rows(steps: int, rounds: int) -> list[Row]:
    one, four, messages = times("ray", 1, steps, rounds), times("ray", 4, steps, rounds), times("messages", 1, 15, 4)
    bare = statistics.median(bare for _, bare in (*one, *four, *messages))
    alone, slow = (statistics.median(1e3 / ms for ms, _ in found) for found in (one, messages))
    return [
        {"what": "bare loop in one process", "steps_per_s": 1e3 / bare},
        {"what": "Ray link, 1 client", **beside_bare(one)},
        {"what": "Ray link, 4 clients", **beside_bare(four)},
        {"what": "message link, 1 client", "steps_per_s": slow, "ray_times_faster": alone / slow, "target": ">= 12"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/split_speed.json"))
    parser.add_argument("--steps", type=int, default=1000, help="mini-batches of one client's turn")
    parser.add_argument("--rounds", type=int, default=9, help="of which the first is not counted")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [*correlation_rows(), nopeek_row(), *link_rows(arguments.steps, arguments.rounds)]
    for row in rows:
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
    write(arguments.out, rows, settings=options(arguments), seeds=[0])


if __name__ == "__main__":
    main()
