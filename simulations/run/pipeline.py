"""A run, from an experiment to its report: collect, attack, evaluate, report, with files between the stages."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fl_privacy.data import data_root as find_root
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
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files
from fl_privacy.simulations.run.attack import run_here, run_on_ray
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


def plan(
    experiment: Experiment,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    backend: str = "ray",
    workers: int | None = None,
    device: str | None = None,
    keep_originals: bool = False,
) -> Plan:
    """Check everything that can be checked before anything starts, load the data, and make the run folder.

    Raises:
        UnknownName, ValueError: a setting. MissingData: the data set is not there. RuntimeError: Flower is
            too new, or too old.
    """
    check_backend(backend, workers)
    if backend == "ray":
        check_flower()
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = count if workers is None else workers
    experiment = reconfigure(experiment, device=resolved_device(device or experiment.device))
    if backend == "ray" and "RAY_ADDRESS" not in os.environ:
        channel_of(experiment).rounds.check_workers(experiment, chosen)
    root = find_root(data_root)
    federation = federation_of(experiment.to_json(), root)
    warnings = preflight(federation)
    channel_of(experiment).rounds.check_federation(federation)
    blind_pool(channel_of(experiment), federation)
    folder = files.new_folder(Path(out) if out else files.default_folder(experiment.name, experiment.seed))
    return Plan(federation, root, folder, backend, chosen, keep_originals, warnings)


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


def simulate(experiment: Experiment, *, note: Note = print, **choices: Any) -> Result:
    """Run an experiment whole and return its result; `choices` are those of `plan`, `note` takes progress lines."""
    return execute(plan(experiment, **choices), note)


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
    _collect(checked, note)
    runner = run_on_ray(checked.workers) if checked.backend == "ray" else run_here
    return finish(federation, out, note, runner, keep_originals=checked.keep_originals)


def _collect(checked: Plan, note: Note) -> None:
    logging.getLogger("flwr").setLevel(logging.WARNING)
    experiment = checked.federation.experiment
    prepare(checked.federation, checked.out, note)  # before Ray starts, whose workers would wait for it
    server_app, client_app = apps(experiment, checked.root, checked.out, note)
    if checked.backend == "local":
        run_local(server_app, client_app, experiment.clients)
        return
    from fl_privacy.simulations.backends.ray import (
        run_ray,  # Ray takes seconds to import, and the local backend does without
    )

    run_ray(server_app, client_app, experiment.clients, checked.workers, client_seconds=experiment.timeout)
