"""A run, from an experiment to its report: collect, attack, evaluate, report, with files between the stages."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_privacy.data import data_root as find_root
from fl_privacy.simulations.backends.addresses import check_address, ray_address
from fl_privacy.simulations.backends.flower_version import check_flower
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.process import prepare_process
from fl_privacy.simulations.channels.base import Over, nobody
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.early import check_backend
from fl_privacy.simulations.config.load import reconfigure
from fl_privacy.simulations.config.preflight import preflight
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note, shown
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.run.attack import run_here, run_in
from fl_privacy.simulations.run.collect import apps, prepare
from fl_privacy.simulations.run.gpu_share import check_share, probed_share
from fl_privacy.simulations.run.resume import alone, run_folder, tidy
from fl_privacy.simulations.run.stages import Attacked, attack, conclude, write_config
from fl_privacy.simulations.run.streaming import Streaming
from fl_privacy.simulations.scoring import blind_pool


@dataclass(frozen=True)
class Plan:
    """A checked run that only has to be executed."""

    federation: Federation
    root: Path | None
    out: Path
    backend: str
    workers: int
    keep_originals: bool
    warnings: tuple[str, ...] = ()
    address: str | None = None
    begun: bool = False
    """Whether an earlier process left something of this run in its folder."""
    figures: bool = True
    gpu_per_client: float | None = None


def plan(
    experiment: Experiment,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    backend: str = "ray",
    workers: int | None = None,
    device: str | None = None,
    keep_originals: bool = False,
    address: str | None = None,
    resume: bool = False,
    figures: bool = True,
    gpu_per_client: float | None = None,
) -> Plan:
    """Check everything that can be checked before anything starts, load the data, and make the run folder.

    `address`: a running Ray cluster, else that of RAY_ADDRESS; without either Ray starts on this machine. `resume`: go
    on with the run in `out` where it was killed, with the bits of one that was not; where there is none, begin. Without
    `figures` none is drawn: `reopen` can do that later. `gpu_per_client`: the share of a GPU that each
    Ray worker has; by default what one client takes that is tried first.

    Raises:
        UnknownName, ValueError: a setting, or a Ray address that nobody serves. MissingData: the data set is not there.
            RuntimeError: Flower is too new, or too old.
    """
    if resume and out is None:
        raise ValueError("'resume' goes on with the run in a folder: name it (--out)")
    ready = check(experiment, data_root, backend, workers, device, address)
    experiment = ready.federation.experiment
    check_share(gpu_per_client, backend, experiment.device)
    if gpu_per_client and not ready.address:
        room = torch.cuda.device_count() * int(1 / gpu_per_client + 1e-9)
        channel_of(experiment).rounds.check_workers(experiment, min(ready.workers, room))
    path = Path(out) if out else files.default_folder(experiment.name, experiment.seed)
    folder, begun = run_folder(path, ready.federation, resume)
    return Plan(
        ready.federation,
        ready.root,
        folder,
        backend,
        ready.workers,
        keep_originals,
        ready.warnings,
        ready.address,
        begun,
        figures,
        gpu_per_client,
    )


@dataclass(frozen=True)
class Ready:
    """What a checked run starts from: its data are loaded, and nothing is written yet."""

    federation: Federation
    root: Path | None
    workers: int
    warnings: tuple[str, ...]
    address: str | None


def check(
    experiment: Experiment,
    data_root: str | os.PathLike[str] | None = None,
    backend: str = "ray",
    workers: int | None = None,
    device: str | None = None,
    address: str | None = None,
) -> Ready:
    """Check everything that can be checked before anything starts, and load the data; raises as `plan` does."""
    check_backend(backend, workers)
    check_flower()
    address = ray_address(address) if backend == "ray" else None
    if address:
        check_address(address)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = count if workers is None else workers
    experiment = reconfigure(experiment, device=resolved_device(device or experiment.device))
    if backend == "ray" and not address:
        channel_of(experiment).rounds.check_workers(experiment, chosen)
    root = find_root(data_root)
    federation = federation_of(experiment.to_json(), root)
    warnings = preflight(federation)
    channel_of(experiment).rounds.check_federation(federation)
    blind_pool(channel_of(experiment), federation)
    return Ready(federation, root, chosen, warnings, address)


def resolved_device(name: str) -> str:
    """The device that `name` (cpu, cuda or auto) means here.

    Raises:
        ValueError: cuda, and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("'device' is cuda, but torch sees no GPU here: use cpu, or auto")
    return name


def simulate(experiment: Experiment, *, note: Note | None = None, **choices: Any) -> Result:
    """Run an experiment whole and return its result; `choices` are those of `plan`.

    `note` takes progress lines; without one there are bars, or lines where bars cannot be.
    """
    checked = plan(experiment, **choices)
    with shown(note) as told:
        return execute(checked, told)


def execute(checked: Plan, note: Note = print) -> Result:
    """Run a plan: collect over Flower, then attack, evaluate and report.

    Raises:
        RuntimeError: the rounds or the attack failed, or another process is at this run.
    """
    prepare_process()
    with alone(checked.out):
        if checked.begun:
            tidy(checked.out)
        if checked.begun and (checked.out / layout.RESULTS).is_file():
            note(f"the run in {checked.out} is finished")
            return Result.of(checked.out, checked.federation.experiment)
        _begin(checked, note)
        prepare(checked.federation, checked.out, note)  # before Ray starts, whose workers would wait for it
        with ExitStack() as ending:
            here = checked.backend == "local"
            attacked = _attacked_here(checked, note) if here else _attacked_on_ray(checked, note, ending)
            return conclude(checked.federation, checked.out, attacked, checked.keep_originals, checked.figures)


def _attacked_here(checked: Plan, note: Note) -> Attacked:
    if not _collected(checked):
        run_local(*_apps(checked, note), checked.federation.experiment.clients)
    return attack(checked.federation, checked.out, note, run_here)


def _attacked_on_ray(checked: Plan, note: Note, ending: ExitStack) -> Attacked:
    """The rounds and the attacks on Ray, for whose end `ending` waits."""
    # Ray takes seconds to import, and the local backend does without
    from fl_privacy.simulations.backends.ray import ray_pool, run_in_pool

    experiment = checked.federation.experiment
    gpus = _gpu_share(checked, note) if experiment.device == "cuda" else 0.0
    needs = partial(federation_of, experiment.to_json(), checked.root)
    with ray_pool(checked.workers, checked.address, gpus, needs, ending) as pool:
        attacking = Streaming(checked.federation, checked.out, pool)
        if not _collected(checked):
            served = _apps(checked, note, attacking.over)
            run_in_pool(pool, *served, experiment.clients, client_seconds=experiment.timeout)
        return attack(checked.federation, checked.out, note, run_in(pool, attacking.ended()))


def _gpu_share(checked: Plan, note: Note) -> float:
    """The share of a GPU that each worker has, as was asked for or measured; said aloud."""
    share, why = checked.gpu_per_client, "as was asked for"
    if share is None:
        experiment = checked.federation.experiment
        least = channel_of(experiment).rounds.workers_at_once(experiment)
        share, why = probed_share(checked.federation, checked.workers, least)
    note(f"each Ray worker has {share:.3g} of a GPU: {why}")
    return share


def _begin(checked: Plan, note: Note) -> None:
    if checked.begun:
        note(f"going on with the run in {checked.out}")
    else:
        facts = {"backend": checked.backend, "workers": checked.workers, "warnings": list(checked.warnings)}
        write_config(checked.federation, checked.out, **facts)
        note(f"run folder: {checked.out}")
    device, where = checked.federation.experiment.device, checked.address or "this machine"
    how = (
        "one process"
        if checked.backend == "local"
        else "all Ray workers"
        if checked.address
        else f"{checked.workers} Ray workers"
    )
    told = f"clients, split servers and attacks: {how} on {where}, on {device}"
    note(f"{told}; joint training: this process, on {device}; measurements of models: this process, on cpu")
    for warning in checked.warnings:
        note(f"warning: {warning}")


def _collected(checked: Plan) -> bool:
    """Whether the rounds are over."""
    return (checked.out / layout.ROUNDS).is_file()


def _apps(checked: Plan, note: Note, over: Over = nobody) -> tuple[ServerApp, ClientApp]:
    logging.getLogger("flwr").setLevel(logging.WARNING)
    return apps(checked.federation.experiment, checked.root, checked.out, note, over)
