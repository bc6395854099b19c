"""A sweep, from its file to the table and the plot: what is finished is kept, what failed costs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.atomic import write_atomic
from fl_privacy.data import data_root as find_root
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.backends.addresses import check_address, ray_address
from fl_privacy.simulations.config.early import check_backend
from fl_privacy.simulations.progress import Note, shown, step
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.results.environment import describe
from fl_privacy.simulations.run.resume import alone
from fl_privacy.simulations.sweeping.cells import CELLS, Job, clear_drafts, job_of
from fl_privacy.simulations.sweeping.decide import Finished, decide
from fl_privacy.simulations.sweeping.figure import draw_settings
from fl_privacy.simulations.sweeping.grid import Sweep, read_sweep
from fl_privacy.simulations.sweeping.result import KIND, TABLE, SweepResult
from fl_privacy.simulations.sweeping.workers import compute_here, compute_in_pool, compute_in_processes


@dataclass(frozen=True)
class PoolOptions:
    """Of `ray_pool`: how many workers (None: one a CPU), of which cluster, and the share of a GPU of each."""

    workers: int | None
    address: str | None
    gpus: float


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep that only has to be executed, or to be gone on with."""

    sweep: Sweep
    jobs: tuple[Job, ...]
    out: Path
    workers: int
    pool: PoolOptions | None = None
    """Where cells are calls on the workers of one Ray session; None: in this process, or in `workers` of their own."""


def plan_sweep(
    sweep: Sweep | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    backend: str = "local",
    workers: int | None = None,
    device: str | None = None,
    address: str | None = None,
) -> SweepPlan:
    """Check every cell as a run is checked before it starts, and make the sweep's folder or take it up again.

    `workers` processes compute a cell each, this one alone by default; with the backend ray these are the workers of
    one Ray session, one a core by default, or all of the cluster at `address`, where `out` must be a shared folder. A
    single cell is spread over them itself, as a run is.

    Raises:
        UnknownName, ValueError, MissingData: a cell, or the folder holds something else.
    """
    check_backend(backend, workers)
    sweep = sweep if isinstance(sweep, Sweep) else read_sweep(str(sweep))
    folder = (Path(out) if out else Path("outputs") / files.slug(sweep.name) / "sweep").absolute()
    root = find_root(data_root)
    spread = backend == "ray" and len(sweep.cells) > 1
    if spread and (address := ray_address(address)):
        check_address(address)
    alone = (backend, workers if backend == "ray" else None, device, address)
    inside = ("local", None, device, None) if spread else alone
    jobs = tuple(job_of(cell, folder, root, *inside) for cell in sweep.cells)
    if not (folder / KIND).is_file():
        files.write_json(files.new_folder(folder) / KIND, describe())
    count = workers or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [()])
    cuda = any(job.experiment.device == "cuda" for job in jobs)
    pool = PoolOptions(workers, address, 1 / count if cuda else 0.0) if spread else None
    return SweepPlan(sweep, jobs, folder, 1 if backend == "ray" else workers or 1, pool)


def execute_sweep(plan: SweepPlan, note: Note = print) -> SweepResult:
    """Compute the cells that are not finished, then write sweep.json, table.csv and the figures.

    Cells that failed are in the result's `failed`, their tracebacks in failures/; the next time they are tried again.

    Raises:
        RuntimeError: no cell at all went well, or another process is at this sweep.
    """
    out = plan.out
    with alone(out):
        clear_drafts(out)
        files.write_json(out / KIND, describe())
        todo = [job for job in plan.jobs if job.finished is None]
        note(f"sweep folder: {out}")
        note(f"{len(plan.jobs)} cells, of which {len(plan.jobs) - len(todo)} are finished already")
        failed = _compute(plan, todo, note)
        return _conclude(plan, failed)


def sweep(source: Sweep | str | os.PathLike[str], *, note: Note | None = None, **choices: Any) -> SweepResult:
    """Run a sweep file, or go on with it, and return its result; `choices` are those of `plan_sweep`.

    `note` takes progress lines; without one there are bars, or lines where bars cannot be.
    """
    plan = plan_sweep(source, **choices)
    with shown(note) as told:
        return execute_sweep(plan, told)


def _compute(plan: SweepPlan, todo: Sequence[Job], note: Note) -> dict[str, str]:
    """Compute these cells; the last line of each failure by the words of its cell."""
    failed: dict[str, str] = {}
    done, finished = 0, len(plan.jobs) - len(todo)
    step(note, "cells", finished, len(plan.jobs))

    def told(job: Job, failure: str | None) -> None:
        nonlocal done
        done += 1
        if failure is None:
            job.failure.unlink(missing_ok=True)
        else:
            failed[job.words] = failure.strip().splitlines()[-1]
            write_atomic(job.failure, failure.encode())
            note(f"FAILED: {job.words}: {failed[job.words]}")
        step(note, "cells", finished + done, len(plan.jobs), job.words)

    (plan.out / CELLS).mkdir(exist_ok=True)
    if plan.pool is not None and todo:
        # Ray takes seconds to import
        from fl_privacy.simulations.backends.ray import ray_pool

        with ray_pool(plan.pool.workers, plan.pool.address, plan.pool.gpus) as pool:
            compute_in_pool(todo, pool, told)
    elif plan.workers == 1:
        compute_here(todo, told)
    else:
        with (plan.out / "workers.log").open("a") as log:
            compute_in_processes(todo, plan.workers, told, log)
    return failed


def _conclude(plan: SweepPlan, failed: dict[str, str]) -> SweepResult:
    """Read the finished cells, in the grid's order, and write what they say: nothing in it depends on how they came."""
    pairs = list(zip(plan.sweep.cells, plan.jobs, strict=True))
    finished = [Finished(cell, job.result) for cell, job in pairs if job.words not in failed]
    if not finished:
        first = next(iter(failed.values()))
        raise RuntimeError(f"every cell failed, the first with {first}. The tracebacks are in {plan.out / 'failures'}")
    found: PlainTable = {
        "name": plan.sweep.name,
        "grid": plan.sweep.grid,
        "seeds": list(plan.sweep.seeds),
        **decide(finished, plan.sweep.seeds),
        "failed": [
            {"cell": job.words, "error": failed[job.words], "log": files.path_inside(job.failure, plan.out)}
            for job in plan.jobs
            if job.words in failed
        ],
        "cells": [
            {
                "cell": each.cell.words,
                "folder": files.path_inside(each.result.folder, plan.out),
                "samples": each.result.digests["samples"],
            }
            for each in finished
        ],
    }
    files.write_json(plan.out / layout.SWEEP, found)
    result = SweepResult.read(plan.out)
    result.to_csv(plan.out / TABLE)
    draw_settings(plan.out / layout.FIGURES, result.found)
    return result
