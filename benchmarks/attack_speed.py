"""Time one attack iteration per victim: the library against GRNN's textbook loop, in one run, on one thread.

python -m benchmarks.attack_speed --out results/attack_speed.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.record import options, write
from benchmarks.table_parts import Row
from benchmarks.textbook import Generator, attack_step
from fl_privacy.attacks.gradient.grnn import GRNN, GRNNAsPublished
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.attacks.gradient.optimise import GradientInversion
from fl_privacy.attacks.inversion.first_order import Stepper
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import stream


def victims(model: torch.nn.Module, count: int, batch: int) -> list[Observation]:
    """Observations of `count` clients with random 3x32x32 images: timing needs no real ones."""
    spec = Spec(image_shape=(3, 32, 32), classes=10, batch_size=batch)
    seen = []
    for client in range(count):
        rng = stream(0, "victim", client)
        x, y = torch.rand(batch, 3, 32, 32, generator=rng), torch.randint(10, (batch,), generator=rng)
        payload, _ = gradient(model, x, y)
        seen.append(
            Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=client, model=model)
        )
    return seen


def textbook(model: torch.nn.Module, seen: list[Observation], iterations: int) -> float:
    """Seconds per iteration and victim of the plain loop (published settings)."""
    observation = seen[0]
    target = [observation.payload[name] for name, _ in model.named_parameters()]
    generator = Generator(32, 3, 10)
    optimiser = torch.optim.RMSprop(generator.parameters(), lr=1e-4, momentum=0.99)
    z = torch.randn(observation.spec.batch_size, 128, generator=stream(0, "latent"))
    start = time.perf_counter()
    for _ in range(iterations):
        attack_step(generator, model, z, target, optimiser)
    return (time.perf_counter() - start) / iterations


def library(attack: GradientInversion, seen: list[Observation]) -> float:
    """Seconds per iteration and victim of the library, from its first step to its last: compiling comes before."""
    stamps: list[float] = []

    class Watched(type(attack)):  # type: ignore[misc]
        def stepper(self, guesses: torch.nn.Module) -> Stepper:
            step: Stepper = super().stepper(guesses)

            def stamped(iteration: int, losses: torch.Tensor, again: Callable[[], torch.Tensor]) -> None:
                stamps.append(time.perf_counter())
                step(iteration, losses, again)

            return stamped

    Watched(**vars(attack))(seen, stream(0, "attack"))
    return (stamps[-1] - stamps[0]) / ((len(stamps) - 1) * len(seen) * attack.restarts)


def loops(n: int, several: bool) -> dict[str, GradientInversion]:
    """The attacks that are timed for n iterations; of `several` victims also compiled, which takes minutes each."""
    ours: dict[str, GRNN | InvertingGradients] = {
        "grnn": GRNN(iterations=n, patience=0, restarts=1),
        "inverting_gradients": InvertingGradients(iterations=n, restarts=1),
    }
    compiled = {f"{name}, compiled": replace(attack, compiled=True) for name, attack in ours.items() if several}
    return {"grnn_as_published": GRNNAsPublished(iterations=n), **ours, **compiled}


def memory(key: str, name: str, batch: int, count: int) -> float:
    """The most memory, in MB, that three iterations of a loop add to a process that has built the model and gradients.

    Run in a process of its own.
    """
    torch.set_num_threads(1)
    model = build_model(name, (3, 32, 32), 10, 0, {"init": "wide"})
    seen = victims(model, count, batch)
    before = peak()
    if key == "textbook":
        textbook(model, seen, 3)
    else:
        loops(3, count > 1)[key](seen, stream(0, "attack"))
    return peak() - before


def peak() -> float:
    """The most memory, in MB, that this process has held; `getrusage` has also what held the one that started it."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/attack_speed.json"))
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("lenet_dlg", "lenet_grnn"):
        model = build_model(name, (3, 32, 32), 10, 0, {"init": "wide"})
        for batch, count in ((1, 1), (1, 16), (8, 1), (8, 4)):
            seen = victims(model, count, batch)
            n = arguments.iterations
            runs: dict[str, Callable[[], float]] = {"textbook": partial(textbook, model, seen, n)}
            runs |= {key: partial(library, attack, seen) for key, attack in loops(n, count > 1).items()}
            # interleaved, so that a busy moment of the machine touches all alike
            times: dict[str, list[float]] = {key: [] for key in runs}
            for _ in range(arguments.repeats):
                for key, run in runs.items():
                    times[key].append(run())
            base = statistics.median(times["textbook"])
            for key, values in times.items():
                median = statistics.median(values)
                row: Row = {"model": name, "batch": batch, "victims": count, "attack": key}
                row |= {"ms_per_iteration_and_victim": round(1e3 * median, 3), "min": round(1e3 * min(values), 3)}
                row |= {"max": round(1e3 * max(values), 3), "of_textbook": round(median / base, 3)}
                with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                    row["added_mb"] = round(apart.submit(memory, key, name, batch, count).result())
                rows.append(row)
                print(row, flush=True)
            write(arguments.out, rows, settings=options(arguments), seeds=[0], threads=1)


if __name__ == "__main__":
    main()
