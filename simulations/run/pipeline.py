"""A run, from an experiment to its report: collect, attack, evaluate, report, with files between the stages."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
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
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.early import check_backend
from fl_privacy.simulations.config.load import reconfigure
from fl_privacy.simulations.config.preflight import preflight
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note, shown
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files
from fl_privacy.simulations.run.attack import run_here, run_in
from fl_privacy.simulations.run.collect import apps, prepare
from fl_privacy.simulations.run.stages import finish, write_config
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


def plan(
    experiment: Experiment,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    backend: str = "ray",
    workers: int | None = None,
    device: str | None = None,
    keep_originals: bool = False,
    address: str | None = None,
) -> Plan:
    """Check everything that can be checked before anything starts, load the data, and make the run folder.

    `address`: a running Ray cluster, else that of RAY_ADDRESS; without either Ray starts on this machine.

    Raises:
        UnknownName, ValueError: a setting, or a Ray address that nobody serves. MissingData: the data set is not there.
            RuntimeError: Flower is too new, or too old.
    """
    ready = check(experiment, data_root, backend, workers, device, address)
    experiment = ready.federation.experiment
    folder = files.new_folder(Path(out) if out else files.default_folder(experiment.name, experiment.seed))
    return Plan(
        ready.federation, ready.root, folder, backend, ready.workers, keep_originals, ready.warnings, ready.address
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
        RuntimeError: the rounds or the attack failed.
    """
    prepare_process()
    federation, out = checked.federation, checked.out
    write_config(federation, out, backend=checked.backend, workers=checked.workers, warnings=list(checked.warnings))
    note(f"run folder: {out}")
    for warning in checked.warnings:
        note(f"warning: {warning}")
    prepare(federation, out, note)  # before Ray starts, whose workers would wait for it
    if checked.backend == "local":
        run_local(*_apps(checked, note), federation.experiment.clients)
        return finish(federation, out, note, run_here, keep_originals=checked.keep_originals)
    # Ray takes seconds to import, and the local backend does without
    from fl_privacy.simulations.backends.ray import ray_pool, run_in_pool

    with ray_pool(checked.workers, checked.address) as pool:
        experiment = federation.experiment
        run_in_pool(pool, *_apps(checked, note), experiment.clients, client_seconds=experiment.timeout)
        return finish(federation, out, note, run_in(pool), keep_originals=checked.keep_originals)


def _apps(checked: Plan, note: Note) -> tuple[ServerApp, ClientApp]:
    logging.getLogger("flwr").setLevel(logging.WARNING)
    return apps(checked.federation.experiment, checked.root, checked.out, note)
