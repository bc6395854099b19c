"""The command that shows what was found: report."""

from __future__ import annotations

from fl_privacy.simulations.cli.options import DataRoot, RunDir, Trust
from fl_privacy.simulations.cli.shell import bad_input, search_here


def report(run_dir: RunDir, data_root: DataRoot = None, trust: Trust = False) -> None:
    """Print a finished run's table and draw its figure again, from its files."""
    if trust:
        search_here()
    with bad_input():
        from fl_privacy.simulations.config.early import check_run_folder

        check_run_folder(run_dir)
        from fl_privacy.simulations.run.again import reopen

        result = reopen(run_dir, data_root, trust)
    result.show()
