"""The command that runs a grid of experiments: sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot, Device, RayAddress
from fl_privacy.simulations.cli.shell import FAILED, bad_input, failure, search_here
from fl_privacy.simulations.progress import shown

if TYPE_CHECKING:  # --help answers at once
    from fl_privacy.simulations.sweeping.grid import Sweep


def sweep(
    file: Annotated[str, typer.Argument(help="A TOML file of a sweep, or a shipped one such as which_defence.")],
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder: a new one, or the one of this sweep, to go on with it.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="local: processes; ray: the workers of one session, or a cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="How many compute a cell each: 1 by default, with ray one a core.")
    ] = None,
    ray_address: RayAddress = None,
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Run an experiment over a grid of attacks, defences, seeds and settings, and say which defence is worth its cost.

    Finished cells are kept: the same command goes on where it was stopped.
    """
    search_here()
    with bad_input():
        from fl_privacy.simulations.sweeping.grid import read_sweep

        wanted = read_sweep(file)
    conclude(wanted, out, data_root, backend, workers, device, ray_address)


def sweep_of_seeds(experiment: str, changes: Sequence[str], profile: str | None, seeds: str) -> Sweep:
    """The sweep over nothing but the seeds of one experiment; raises as `read_sweep` does."""
    from fl_privacy.simulations.config.changes import override
    from fl_privacy.simulations.config.files import read
    from fl_privacy.simulations.sweeping.grid import make_sweep, parse_seeds

    settings = override(read(experiment, profile).settings, changes)
    return make_sweep(str(settings["name"]), settings, seeds=parse_seeds(seeds))


def conclude(
    wanted: Sweep,
    out: Path | None,
    data_root: Path | None,
    backend: str,
    workers: int | None,
    device: str | None,
    ray_address: str | None = None,
) -> None:
    """Check a sweep, run what is left of it and print its table; exit code 1 where a cell failed."""
    with bad_input():
        from fl_privacy.simulations.sweeping.run import execute_sweep, plan_sweep

        checked = plan_sweep(wanted, out, data_root, backend, workers, device, ray_address)
    with failure(checked.out), shown() as note:
        result = execute_sweep(checked, note)
    result.show()
    if result.failed:
        raise typer.Exit(FAILED)
