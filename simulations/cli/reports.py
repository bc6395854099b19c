"""The command that shows what was found: report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_privacy.simulations.cli.options import DataRoot, RunDir, Trust
from fl_privacy.simulations.cli.shell import bad_input, search_here

if TYPE_CHECKING:
    from fl_privacy.simulations.auditing.result import Audit
    from fl_privacy.simulations.report.result import Result
    from fl_privacy.simulations.sweeping.result import SweepResult


def report(
    run_dir: RunDir,
    html: Annotated[bool, typer.Option("--html", help="Write report.html, one page for a browser, and a CSV.")] = False,
    data_root: DataRoot = None,
    trust: Trust = False,
) -> None:
    """Print what a finished run, audit or sweep found, from its files; of a run the figures are drawn again."""
    if trust:
        search_here()
    with bad_input():
        found = _opened(run_dir, data_root, trust)
        from fl_privacy.simulations.results.layout import PAGE, ROWS

        written = [found.to_html(run_dir / PAGE), found.to_csv(run_dir / ROWS)] if html else []
    found.show()
    for path in written:
        typer.echo(f"written: {path}")


def _opened(folder: Path, data_root: Path | None, trust: bool) -> Result | Audit | SweepResult:
    """What a folder holds, by the file that it has.

    Raises:
        ValueError: no finished run, audit or sweep.
    """
    from fl_privacy.simulations.config.early import check_run_folder
    from fl_privacy.simulations.results.layout import AUDIT, AUDIT_BEGUN, SWEEP

    if (folder / AUDIT).is_file():
        from fl_privacy.simulations.auditing.result import Audit

        return Audit.read(folder)
    if (folder / SWEEP).is_file():
        from fl_privacy.simulations.sweeping.result import SweepResult

        return SweepResult.read(folder)
    if (folder / AUDIT_BEGUN).is_file():
        raise ValueError(
            f"the audit in {folder} is not finished: the command that began it goes on with --resume --out {folder}, "
            "and what each attack found until now lies there as JSON and PNG"
        )
    check_run_folder(folder)
    from fl_privacy.simulations.run.again import reopen

    return reopen(folder, data_root, trust)
