"""The collect stage: the rounds of every condition, over Flower, and what the adversary saw of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy.observation import Observation
from fl_privacy.simulations.backends.process import prepare_process
from fl_privacy.simulations.channels.base import Over, RunContext, nobody
from fl_privacy.simulations.channels.round_log import summarise_reasons
from fl_privacy.simulations.channels.unfinished import forget_unfinished
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.results import files, layout, storage
from fl_privacy.strategies.records import ValidatingGrid


def apps(
    experiment: Experiment, root: Path | None, out: Path, note: Note = print, over: Over = nobody
) -> tuple[ServerApp, ClientApp]:
    """The server, which leaves what it saw and measured in `out`, and the client of an experiment."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        collect(federation_of(experiment.to_json(), root), grid, out, note, over)

    return server_app, channel_of(experiment).rounds.client(partial(federation_for, experiment.to_json(), root))


def federation_for(experiment_json: str, root: Path | None, message: Message, context: Context) -> Federation:
    """The federation of the client that a message is for, in whatever process it runs."""
    prepare_process()
    return federation_of(experiment_json, root)


def prepare(federation: Federation, out: Path, note: Note) -> None:
    """Leave in `out` what has to be there before the clients start."""
    channel_of(federation.experiment).rounds.prepare(federation, RunContext(out, note))


def collect(federation: Federation, grid: Grid, out: Path, note: Note, over: Over = nobody) -> None:
    """Run the rounds of every condition and leave observations/ and rounds.json in `out`; `prepare` has been called."""
    experiment = federation.experiment
    channel, run_context = channel_of(experiment), RunContext(out, note, over)
    validating = ValidatingGrid(
        grid,
        experiment.clients,
        deadline=experiment.timeout,
        min_replies=experiment.min_replies,
        schemas=channel.rounds.schemas(federation),
    )
    forget_unfinished(out)
    note("starting what runs the clients")
    validating.get_node_ids()
    note(f"ready for {experiment.clients} clients")

    def sink(condition: int, seen: Observation) -> None:
        storage.save_observation(out / layout.OBSERVATIONS, condition, seen)

    files.write_json(out / layout.ROUNDS, channel.rounds.collect(federation, validating, sink, run_context))
    if lost := sum(each.expected - each.received for each in validating.rounds):
        sent = sum(each.expected for each in validating.rounds)
        why = summarise_reasons(reason for each in validating.rounds for reason in each.reasons)
        note(f"{lost} of {sent} messages brought no valid reply, and the rounds went on without: {why}")
