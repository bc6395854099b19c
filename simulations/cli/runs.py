"""The commands that run and attack: run, attack."""

from __future__ import annotations

from typing import Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot, Device, Out, Profile, RayAddress, Resume, RunDir, Sets, Trust
from fl_privacy.simulations.cli.shell import bad_input, failure, search_here
from fl_privacy.simulations.cli.sweeps import conclude, sweep_of_seeds
from fl_privacy.simulations.progress import shown


def run(
    experiment: Annotated[str, typer.Argument(help="A shipped experiment (see 'list experiments') or a TOML file.")],
    changes: Sets = None,
    profile: Profile = None,
    seed: Annotated[int | None, typer.Option(help="Every random stream follows from it.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several of them, 0..4 or 0,1,2: a run each, one table with intervals.")
    ] = None,
    out: Out = None,
    data_root: DataRoot = None,
    backend: Annotated[str, typer.Option(help="ray, or local for one process.")] = "ray",
    workers: Annotated[
        int | None, typer.Option(help="Ray workers, one a core by default; local with --seeds: processes.")
    ] = None,
    ray_address: RayAddress = None,
    device: Device = None,
    gpu_per_client: Annotated[
        float | None, typer.Option(help="Share of a GPU of each Ray worker; else one client is tried first.")
    ] = None,
    keep_originals: Annotated[bool, typer.Option(help="Also write the private images.")] = False,
    resume: Resume = False,
    tracker: Annotated[str | None, typer.Option("--track", help="tensorboard: also write curves and scores.")] = None,
) -> None:
    """Run an experiment: collect what clients share, attack it, report what came back."""
    search_here()
    with bad_input():
        from fl_privacy.simulations.config.early import check_backend, check_early

        check_early(experiment, changes or (), profile, seed=seed, device=device)
        check_backend(backend, workers)
        if seeds is not None and (seed is not None or keep_originals or tracker or gpu_per_client):
            beside = "--seed, --keep-originals, --track, --gpu-per-client"
            raise ValueError(f"'--seeds' goes with none of {beside}: run one seed for that")
        several = None if seeds is None else sweep_of_seeds(experiment, changes or (), profile, seeds)
    if several is not None:
        conclude(several, out, data_root, backend, workers, device, ray_address)
        return
    with bad_input():
        from fl_privacy.simulations.config.load import load_experiment
        from fl_privacy.simulations.run.pipeline import execute, plan

        chosen = load_experiment(experiment, changes or (), profile=profile, seed=seed)
        if tracker is not None:
            from fl_privacy.simulations.report.track import check_tracker

            check_tracker(tracker)
        where = (backend, workers, device, keep_originals, ray_address, resume)
        checked = plan(chosen, out, data_root, *where, gpu_per_client=gpu_per_client)
    with failure(checked.out), shown() as note:
        result = execute(checked, note)
    result.show()
    if tracker is not None:
        from fl_privacy.simulations.report.track import track

        typer.echo(f"for tensorboard --logdir: {track(result)}")


def attack(
    run_dir: RunDir,
    attack: Annotated[str | None, typer.Option(help="Another attack than the run's own.")] = None,
    changes: Sets = None,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = None,
    trust: Trust = False,
    resume: Resume = False,
) -> None:
    """Attack a run's saved observations again; nothing is simulated."""
    if trust or any(":" in text for text in (attack or "", *(changes or ()))):
        search_here()
    with bad_input():
        from fl_privacy.simulations.config.early import check_attack_early, check_run_folder

        check_attack_early(attack, changes or ())
        check_run_folder(run_dir, finished=False)
        from fl_privacy.simulations.run.again import execute_again, plan_again

        checked = plan_again(run_dir, attack, changes or (), out, data_root, device, trust, resume)
    with failure(checked.out), shown() as note:
        result = execute_again(checked, note)
    result.show()
