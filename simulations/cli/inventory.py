"""The commands that say what there is: list, doctor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot
from fl_privacy.simulations.cli.shell import FAILED, bad_input


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="channels, attacks, defences, metrics, models, datasets, partitions or experiments."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    data_root: DataRoot = None,
) -> None:
    """List what there is, with its settings and where it comes from: everything, or one kind."""
    with bad_input():
        from fl_privacy.simulations.config.early import LISTED, check_listed

        check_listed(kind)
        from fl_privacy.data import data_root as find_root
        from fl_privacy.simulations.listing import as_table, entries
        from fl_privacy.simulations.report.table import console

        root = find_root(data_root)
        found = {each: entries(each, root) for each in ([kind] if kind else LISTED)}
    if as_json:
        typer.echo(json.dumps(found[kind] if kind else found, indent=2, default=str))
        return
    for each, listed in found.items():
        console().print(as_table(each, listed))


def doctor(data_root: DataRoot = None) -> None:
    """Say what this machine has: versions, hardware, data sets, settings, ports."""
    from fl_privacy.simulations.doctor import as_table, examine
    from fl_privacy.simulations.report.table import console

    found = examine(data_root)
    console().print(as_table(found))
    if not all(each.well for each in found):
        raise typer.Exit(FAILED)
