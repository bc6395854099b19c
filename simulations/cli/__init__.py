"""The fl-privacy command. Heavy imports wait until a command needs them, so that --help answers at once."""

from __future__ import annotations

import typer

from fl_privacy.simulations.cli.audits import audit
from fl_privacy.simulations.cli.inventory import doctor, list_
from fl_privacy.simulations.cli.reports import report
from fl_privacy.simulations.cli.runs import attack, run
from fl_privacy.simulations.cli.sweeps import sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _about() -> None:
    """What does your federated-learning setup leak, and which defence is worth its cost?"""


for _command in (run, attack, audit, sweep, report):
    app.command()(_command)
app.command("list")(list_)
app.command()(doctor)


def main() -> None:
    """The entry point of the fl-privacy command."""
    app()
