"""The attack stage: groups of observations, attacked here or as Ray tasks, with the same bits either way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch

from fl_privacy.attacks import Attack
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.seeding import stream
from simulations.storage import Key

Note = Callable[[str], None]
"""Where progress goes, one line at a time."""


@dataclass(frozen=True)
class Job:
    """The observations of one arm and round: one attack call, so that how many run at once changes no bit."""

    attack: Attack
    keys: tuple[Key, ...]
    seen: tuple[Observation, ...]
    seed: int
    device: str

    def __call__(self) -> list[Reconstruction]:
        """The reconstructions, in order, on the CPU; one thread, because more change the last bits."""
        arm, round = self.keys[0].arm, self.keys[0].round
        with _one_thread():
            seen = [observation.to(torch.device(self.device)) for observation in self.seen]
            ready = self.attack.prepare(seen, stream(self.seed, "prepare", arm, round))
            return ready(seen, stream(self.seed, "attack", arm, round))


Runner = Callable[[Sequence[Job], Note], list[list[Reconstruction]]]


def jobs(
    attack: Attack, seen: dict[Key, Observation], clients: int, seed: int, device: str
) -> list[Job]:
    """One job an arm and round, each with the first `clients` of the clients that answered."""
    groups = groupby(sorted(seen), key=lambda key: (key.arm, key.round))
    chosen = [tuple(keys)[:clients] for _, keys in groups]
    return [Job(attack, keys, tuple(seen[key] for key in keys), seed, device) for keys in chosen]


def run_here(todo: Sequence[Job], note: Note) -> list[list[Reconstruction]]:
    """Run the jobs one after the other in this process."""
    done = []
    for index, job in enumerate(todo):
        start = time.perf_counter()
        done.append(job())
        note(f"attack {index + 1} of {len(todo)} done after {time.perf_counter() - start:.0f} s")
    return done


def run_on_ray(workers: int) -> Runner:
    """A runner that spreads the jobs over `workers` Ray workers, or over a running cluster that RAY_ADDRESS names."""

    def run(todo: Sequence[Job], note: Note) -> list[list[Reconstruction]]:
        import ray

        address = os.environ.get("RAY_ADDRESS")
        ray.init(
            address=address,
            num_cpus=None if address else workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        try:
            gpus = 1 / min(workers, len(todo)) if todo and todo[0].device == "cuda" else 0
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_call)
            pending = {task.remote(job): index for index, job in enumerate(todo)}
            return _gather(pending, note)
        finally:
            ray.shutdown()

    return run


def _call(job: Job) -> list[Reconstruction]:
    return job()


def _gather(pending: dict[object, int], note: Note) -> list[list[Reconstruction]]:
    import ray

    start, total = time.perf_counter(), len(pending)
    done: dict[int, list[Reconstruction]] = {}
    while len(done) < total:
        ready, _ = ray.wait([task for task, index in pending.items() if index not in done], timeout=5)
        for task in ready:
            done[pending[task]] = ray.get(task)
        note(f"attack: {len(done)} of {total} groups done after {time.perf_counter() - start:.0f} s")
    return [done[index] for index in range(total)]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
