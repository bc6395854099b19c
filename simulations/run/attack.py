"""The attack stage: groups of observations, attacked here or as Ray tasks, with the same bits either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fl_privacy.attacks import Attack
from fl_privacy.attacks.unfinished import kept_in
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.seeding import one_thread, stream
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.progress import Note, step
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.records import Key

if TYPE_CHECKING:
    from fl_privacy.simulations.backends.pool import Pool  # Ray takes seconds to import

HEARTBEAT = 10  # seconds for which the pool is waited for at a time


@dataclass(frozen=True)
class Job:
    """The observations of one group: one attack call, so that how many run at once changes no bit."""

    label: str
    attack: Attack
    keys: tuple[Key, ...]
    seen: tuple[Observation, ...]
    seed: int
    device: str
    order: int
    """The attack's place among those of the run: those of the first begin first, in whatever round and condition."""
    unfinished: Path | None = None
    """Where its long loops write down how far they are; None: nowhere."""

    @property
    def name(self) -> tuple[str, tuple[Key, ...]]:
        """Which job of its run this is."""
        return self.label, self.keys

    def __call__(self) -> list[Reconstruction]:
        """The reconstructions, in order, on the CPU; one thread, because more change the last bits."""
        condition, round = self.keys[0].condition, self.keys[0].round
        shared = (
            self.unfinished is not None and self.unfinished.parents[2].is_dir()
        )  # not so on every node of a cluster
        with one_thread(), kept_in(self.unfinished if shared else None):
            seen = [observation.to(torch.device(self.device)) for observation in self.seen]
            ready = self.attack.prepare(seen, stream(self.seed, "prepare", condition, round))
            return ready(seen, stream(self.seed, "attack", condition, round))


Done = tuple[Job, list[Reconstruction]]
Runner = Callable[[Sequence[Job], Note], Iterator[Done]]
"""Runs the jobs and gives each back, in whatever order, as soon as it is done."""


def jobs(
    experiment: Experiment,
    channel: Channel,
    seen: Mapping[Key, Observation],
    bind_artifacts: Callable[[Attack, int], Attack | None],
    folder: Path | None = None,
) -> list[Job]:
    """One job an attack and group, over the first `attacked_clients` of the clients that answered in a round.

    `armed(attack, condition)` gives the attack what the run left for it in that condition, or None where it has no
    business. In the run `folder` calls write down how far they are.
    """
    rounds = groupby(sorted(seen), key=lambda key: (key.condition, key.round))
    attacked = [key for _, keys in rounds for key in list(keys)[: experiment.attacked_clients]]
    todo = []
    for order, (label, attack) in enumerate(experiment.resolved.attacks.items()):
        groups: dict[tuple[int, ...], list[Key]] = {}
        for key in attacked:
            if experiment.concerns(label, key.condition) and channel.grouping.selects(attack, key):
                groups.setdefault(channel.grouping.group(experiment, attack, key), []).append(key)
        for keys in groups.values():
            if (ready := bind_artifacts(attack, keys[0].condition)) is not None:
                own = tuple(experiment.held_by(label, seen[key]) for key in keys)
                place = folder and files.unfinished_folder(folder, label) / keys[0].stem
                todo.append(Job(label, ready, tuple(keys), own, experiment.seed, experiment.device, order, place))
    return todo


def run_here(todo: Sequence[Job], note: Note) -> Iterator[Done]:
    """Run the jobs one after the other in this process."""
    step(note, "attacks", 0, len(todo))
    for done, job in enumerate(todo, start=1):
        yield job, job()
        step(note, "attacks", done, len(todo))


def run_in(pool: Pool, begun: Mapping[int, Job] | None = None) -> Runner:
    """A runner that spreads the jobs over the workers of a pool; `begun` are under way there, by ticket.

    A job that runs out of memory beside others is done again with fewer beside it: the same job, so the same bits.
    """

    def run(todo: Sequence[Job], note: Note) -> Iterator[Done]:
        step(note, "attacks", 0, len(todo))
        tickets, starved = {job.name: ticket for ticket, job in (begun or {}).items()}, pool.starved
        waiting = {tickets[job.name] if job.name in tickets else pool.submit(job, order=job.order): job for job in todo}
        try:
            while waiting:
                for ticket, outcome in pool.take(waiting, HEARTBEAT).items():
                    job = waiting.pop(ticket)
                    if outcome.error is not None:
                        raise _told(job, outcome.error)
                    yield job, outcome.value
                    step(note, "attacks", len(todo) - len(waiting), len(todo))
        finally:
            pool.cancel(list(waiting))
        if pool.starved > starved:
            note(
                f"{pool.starved - starved} attack calls ran out of memory beside others, and were made again, "
                f"{pool.together} at a time"
            )

    return run


def _told(job: Job, error: BaseException) -> BaseException:
    """What an attack raised; where that is for want of memory, what to do."""
    if not isinstance(error, torch.OutOfMemoryError):
        return error
    return RuntimeError(
        f"'{job.label}' ran out of memory with nothing beside it, on {len(job.seen)} observations in one call: attack "
        "fewer ('attacked_clients'), or on the CPU (--device cpu). What was done is kept: --resume goes on from here"
    )
