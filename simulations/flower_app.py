"""The repository as a Flower app, for `flwr run .`: the run config names the experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy.data import data_root
from fl_privacy.simulations.backends.process import prepare_process
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.results import files
from fl_privacy.simulations.run.attack import run_here
from fl_privacy.simulations.run.collect import collect, federation_for, prepare
from fl_privacy.simulations.run.stages import finish, write_config

server = ServerApp()
"""The server of `flwr run .`; the run config names the experiment."""


@server.main()
def _serve(grid: Grid, context: Context) -> None:
    experiment, root = _configured(context)
    out = str(context.run_config.get("out", ""))
    folder = files.new_folder(Path(out) if out else files.default_folder(experiment.name, experiment.seed))
    federation = federation_of(experiment.to_json(), root)
    write_config(federation, folder, backend="flwr run")
    prepare(federation, folder, print)
    collect(federation, grid, folder, print)
    result = finish(federation, folder, print, run_here)
    result.show()


def _configured(context: Context) -> tuple[Experiment, Path | None]:
    prepare_process()
    config = context.run_config
    profile = str(config.get("profile", "")) or None
    experiment = load_experiment(str(config["experiment"]), profile=profile, seed=int(config["seed"]))
    return experiment, data_root(str(config.get("data-root", "")))


class _Configured(ClientApp):
    """The clients of whatever experiment the run config names."""

    def __call__(self, message: Message, context: Context) -> Message:
        experiment, root = _configured(context)
        app = channel_of(experiment).rounds.client(partial(federation_for, experiment.to_json(), root))
        return app(message, context)


client = _Configured()
"""The client of `flwr run .`."""
