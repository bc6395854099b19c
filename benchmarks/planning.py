"""What a federation of a given size needs, in time, memory and disk, from unit costs that are measured here.

    python -m benchmarks.planning --out results/planning.json              # measures, on this machine's CPU
    python -m benchmarks.planning --device cuda --out my_gpu.json          # on a GPU
    python -m benchmarks.planning --of my_gpu.json --workers 32 --nodes 4  # plans with what was measured there

The victim is ResNet-18 (width 64) on images of 3x32x32, 32 of them a step. The units are those of `UNITS`; what follows
from them is `plan`, a few lines of arithmetic.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks.attack_speed import victims
from benchmarks.record import options, write
from benchmarks.scale import one
from fl_privacy.attacks import Attack
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.seeding import stream
from fl_privacy.strategies.records import pack

BATCH, SHAPE, CLASSES = 32, (3, 32, 32), 10
TAKING_PART = 10  # of the runs from which start, memory and the cost of a message are taken
UNITS = {
    "step_s": "one step of a client: forward, backward, on one worker",
    "step_mb": "the most memory that it adds to a worker (on a GPU: of the GPU)",
    "message_disk_mb": "a message in the run folder",
    "message_wire_mb": "a message between processes",
    "start_s": "from the command to the first round, Ray and workers included",
    "message_s": "what a client costs beside its step, all workers together: the wire, the guard, the mean, the disk",
    "driver_mb": "the process that runs the server, beside messages",
    "driver_mb_per_message": "what it holds more for each client that takes part in a round",
    "worker_mb": "one worker",
    "grnn_iteration_s": "one iteration of `grnn` on one message of one image",
    "inverting_iteration_s": "one iteration of `inverting_gradients` on one message of one image, one restart",
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A federation: of its clients so many take part in a round; so many steps each; so many messages are attacked."""

    clients: int = 10_000
    taking_part: int = 100
    steps: int = 1
    rounds: int = 100
    attacked_rounds: int = 16
    attacked: int = 1
    iterations: int = 8000
    workers: int = 8
    nodes: int = 1
    conditions: int = 1


def plan(units: Mapping[str, float], size: Size) -> dict[str, float]:
    """What a run of this size needs; times in seconds, memory and disk in GB.

    A round: the steps, spread over the workers, and then what every message costs beside them, one after the other.
    `clients` enters nowhere: who does not take part costs nothing (docs/scaling.md), but for the data.
    """
    round_s = size.taking_part * (size.steps * units["step_s"] / size.workers + units["message_s"])
    calls = size.conditions * size.attacked_rounds  # the messages of a round go through one call, on one worker
    attack_s = calls * size.attacked * size.iterations / min(size.workers, calls)
    messages = calls * (size.taking_part + 1)  # and the model, once a round
    return {
        "start_s": units["start_s"],
        "round_s": round_s,
        "rounds_s": size.conditions * size.rounds * round_s,
        "attack_grnn_s": attack_s * units["grnn_iteration_s"],
        "attack_inverting_s": attack_s * units["inverting_iteration_s"],
        "driver_gb": (units["driver_mb"] + size.taking_part * units["driver_mb_per_message"]) / 1e3,
        "node_gb": size.workers / size.nodes * units["worker_mb"] / 1e3,
        "disk_gb": messages * units["message_disk_mb"] / 1e3,
    }


def several(measure: Callable[[], float], repeats: int) -> list[float]:
    """`measure` once to warm up, and then so often."""
    measure()
    return [measure() for _ in range(repeats)]


def wait(device: str) -> None:
    """Until a GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def steps(device: str, repeats: int) -> dict[str, list[float]]:
    """A client's step, and the memory that it adds."""
    model = build_model("resnet18", SHAPE, CLASSES, 0, {}).to(device)
    rng = stream(0, "planning")
    x = torch.rand(BATCH, *SHAPE, generator=rng).to(device)
    y = torch.randint(CLASSES, (BATCH,), generator=rng).to(device)
    before = _peak_mb(device)

    def once() -> float:
        start = time.perf_counter()
        gradient(model, x, y)
        wait(device)
        return time.perf_counter() - start

    found = several(once, repeats)
    return {"step_s": found, "step_mb": [_peak_mb(device) - before]}


def messages() -> dict[str, list[float]]:
    """A gradient of the model, as it is written and as it is sent."""
    model = build_model("resnet18", SHAPE, CLASSES, 0, {})
    payload = {name: value.detach() for name, value in model.named_parameters()}
    disk, wire = len(safetensors.torch.save(payload)), len(pickle.dumps(pack(payload)))
    return {"message_disk_mb": [disk / 1e6], "message_wire_mb": [wire / 1e6]}


def attacks(device: str, iterations: int, repeats: int) -> dict[str, list[float]]:
    """One iteration on a message of one image whose label is known: what more of them take longer."""
    model = build_model("resnet18", SHAPE, CLASSES, 0, {})
    (victim,) = victims(model, 1, 1)
    seen = [replace(victim, labels=torch.zeros(1, dtype=torch.long)).to(torch.device(device))]
    tried: dict[str, Callable[[int], Attack]] = {
        "grnn_iteration_s": lambda count: GRNN(iterations=count, restarts=1, patience=0),
        "inverting_iteration_s": lambda count: InvertingGradients(iterations=count, restarts=1),
    }

    def seconds(attack: Attack) -> float:
        start = time.perf_counter()
        attack(seen, stream(0, "attack"))
        wait(device)
        return time.perf_counter() - start

    def once(make: Callable[[int], Attack]) -> float:
        few, many = (seconds(make(count)) for count in (iterations, 3 * iterations))
        return max(0.0, many - few) / (2 * iterations)

    return {name: several(partial(once, make), repeats) for name, make in tried.items()}


def runs(device: str, workers: int, rounds: int, repeats: int, step_s: float) -> dict[str, list[float]]:
    """Whole runs on Ray, of this model and of a small one on the same images: what is theirs beside the steps."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        how = ("--one", str(TAKING_PART), "--device", device, "--workers", str(workers), "--rounds", str(rounds))
        large, small = one(*how, "--victim", "resnet18"), one(*how, "--victim", "digits")
        each = {
            "start_s": large["ready_s"],
            "message_s": max(0.0, large["round_s"] - TAKING_PART * step_s / workers) / TAKING_PART,
            "driver_mb": small["driver_mb"],
            "driver_mb_per_message": max(0.0, large["driver_mb"] - small["driver_mb"]) / TAKING_PART,
            "worker_mb": large["worker_mb"],
        }
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return found


def _peak_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(device: str, workers: int, repeats: int, rounds: int, iterations: int) -> list[dict[str, Any]]:
    """One row a unit: the median of its measurements, and their range."""
    torch.set_num_threads(1)
    found = steps(device, repeats)
    few = max(1, repeats // 3)
    found |= messages() | attacks(device, iterations, few)
    found |= runs(device, workers, rounds, few, statistics.median(found["step_s"]))
    return [
        {
            "unit": name,
            "what": UNITS[name],
            "value": statistics.median(found[name]),
            "low": min(found[name]),
            "high": max(found[name]),
            "repeats": len(found[name]),
        }
        for name in UNITS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/planning.json"))
    parser.add_argument("--of", type=Path, help="Plan with the units of this file, and measure nothing.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--ray-workers", type=int, default=2, help="Workers of the runs that are measured.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--measured-rounds", type=int, default=6)
    parser.add_argument("--measured-iterations", type=int, default=5)
    for field in fields(Size):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    chosen = parser.parse_args()
    size = Size(**{field.name: getattr(chosen, field.name) for field in fields(Size)})
    if chosen.of is None:
        counts = (chosen.repeats, chosen.measured_rounds, chosen.measured_iterations)
        rows = measured(chosen.device, chosen.ray_workers, *counts)
        write(chosen.out, rows, settings=options(chosen), seeds=[0], device=chosen.device)
    else:
        rows = json.loads(chosen.of.read_text())["rows"]
    units = {row["unit"]: row["value"] for row in rows}
    for name, value in {**units, **asdict(size), **plan(units, size)}.items():
        print(f"{name}: {value:,.4g}")


if __name__ == "__main__":
    main()
