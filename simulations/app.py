"""The Flower apps: for the suite's own runners from an experiment, and for `flwr run .` from its run config."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy.data import data_root
from fl_privacy.observation import Observation
from simulations import files, storage
from simulations.attacking import Note, run_here
from simulations.channels import CHANNELS, Place
from simulations.channels.base import told
from simulations.experiment import Experiment
from simulations.settings import load_experiment
from simulations.stages import finish, write_config
from simulations.world import World, world_of
from strategies.messages import OrderlyGrid


def apps(experiment: Experiment, root: Path | None, out: Path, note: Note = print) -> tuple[ServerApp, ClientApp]:
    """The server, which leaves what it saw and measured in `out`, and the client of an experiment."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        collect(world_of(experiment.to_json(), root), grid, out, note)

    return server_app, CHANNELS[experiment.channel].client(partial(_world, experiment.to_json(), root))


def _world(experiment_json: str, root: Path | None, message: Message, context: Context) -> World:
    return world_of(experiment_json, root)


def prepare(world: World, out: Path, note: Note) -> None:
    """Leave in `out` what has to be there before the clients start."""
    CHANNELS[world.experiment.channel].prepare(world, Place(out, note))


def collect(world: World, grid: Grid, out: Path, note: Note) -> None:
    """Run the rounds of every arm and leave observations/ and rounds.json in `out`; `prepare` has been called."""
    experiment = world.experiment
    kind, place = CHANNELS[experiment.channel], Place(out, note)
    orderly = OrderlyGrid(
        grid,
        experiment.clients,
        deadline=experiment.timeout,
        min_replies=experiment.min_replies,
        schemas=kind.schemas(world),
    )
    note(f"starting {experiment.clients} clients, which takes a while on Ray")
    orderly.get_node_ids()
    note(f"{experiment.clients} clients are ready")

    def sink(arm: int, seen: Observation) -> None:
        storage.save_observation(out / files.OBSERVATIONS, arm, seen)

    files.write_json(out / files.ROUNDS, kind.collect(world, orderly, sink, place))
    if lost := sum(each.expected - each.received for each in orderly.rounds):
        sent = sum(each.expected for each in orderly.rounds)
        why = told(reason for each in orderly.rounds for reason in each.reasons)
        note(f"{lost} of {sent} messages brought no valid reply, and the rounds went on without: {why}")


server = ServerApp()
"""The server of `flwr run .`; the run config names the experiment."""


@server.main()
def _serve(grid: Grid, context: Context) -> None:
    experiment, root = _configured(context)
    out = str(context.run_config.get("out", ""))
    folder = files.new_folder(Path(out) if out else files.default_folder(experiment.name, experiment.seed))
    world = world_of(experiment.to_json(), root)
    write_config(world, folder, backend="flwr run")
    prepare(world, folder, print)
    collect(world, grid, folder, print)
    result = finish(world, folder, print, run_here)
    print(f"results: {result.folder}")


def _configured(context: Context) -> tuple[Experiment, Path | None]:
    config = context.run_config
    experiment = load_experiment(str(config["experiment"]), seed=int(config["seed"]))
    return experiment, data_root(str(config.get("data-root", "")))


class _Configured(ClientApp):
    """The clients of whatever experiment the run config names."""

    def __call__(self, message: Message, context: Context) -> Message:
        experiment, root = _configured(context)
        app = CHANNELS[experiment.channel].client(partial(_world, experiment.to_json(), root))
        return app(message, context)


client = _Configured()
"""The client of `flwr run .`."""
