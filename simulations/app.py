"""The Flower apps: for the suite's own runners from an experiment, and for `flwr run .` from its run config."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result as FlowerResult

from fl_privacy.client import Party, accuracy
from fl_privacy.data import data_root
from fl_privacy.observation import Observation
from simulations import files, storage
from simulations.attacking import Note, run_here
from simulations.channels import CHANNELS
from simulations.experiment import Experiment
from simulations.settings import load_experiment
from simulations.stages import finish, write_config
from simulations.world import World, world_of
from strategies.gradient import gradient_app
from strategies.messages import Counts, OrderlyGrid, arm_of, pack, unpack

PROGRESS_LINES = 6  # an arm


def apps(experiment: Experiment, root: Path | None, out: Path, note: Note = print) -> tuple[ServerApp, ClientApp]:
    """The server, which leaves what it saw and measured in `out`, and the client of an experiment."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        collect(world_of(experiment.to_json(), root), grid, out, note)

    return server_app, gradient_app(partial(_party, experiment.to_json(), root))


def _party(experiment_json: str, root: Path | None, message: Message, context: Context) -> Party:
    return world_of(experiment_json, root).party(arm_of(message))


def collect(world: World, grid: Grid, out: Path, note: Note) -> None:
    """Run the rounds of every arm and leave observations/ and rounds.json in `out`."""
    experiment = world.experiment
    orderly = OrderlyGrid(
        grid,
        experiment.clients,
        deadline=experiment.timeout,
        min_replies=experiment.min_replies,
        schemas=CHANNELS[experiment.channel].schemas(world),
    )
    note(f"starting {experiment.clients} clients, which takes a while on Ray")
    orderly.get_node_ids()
    note(f"{experiment.clients} clients are ready")
    arms = [_run_arm(world, arm, orderly, out, note) for arm in range(len(experiment.arms))]
    files.write_json(out / files.ROUNDS, arms)


def _run_arm(world: World, arm: int, grid: OrderlyGrid, out: Path, note: Note) -> dict[str, Any]:
    experiment = world.experiment

    def sink(seen: Observation) -> None:
        storage.save_observation(out / files.OBSERVATIONS, arm, seen)

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        model = world.model()
        model.load_state_dict(unpack(arrays))
        hits, loss = accuracy(model, *world.held_out)
        if round % max(1, experiment.rounds // PROGRESS_LINES) == 0 or round == experiment.rounds:
            progress = f"round {round} of {experiment.rounds}, accuracy {hits:.1%}, loss {loss:.3f}"
            note(f"defence {experiment.arms[arm]}: {progress}")
        return MetricRecord({"accuracy": hits, "loss": loss})

    start = len(grid.rounds)
    strategy = CHANNELS[experiment.channel].server(world, sink)
    result = strategy.start(
        grid,
        pack(world.model().state_dict()),
        num_rounds=experiment.rounds,
        timeout=experiment.timeout,
        train_config=ConfigRecord({"arm": arm}),
        evaluate_fn=evaluate,
    )
    return {"defence": experiment.arms[arm], "rounds": _rounds(experiment.rounds, result, grid.rounds[start:])}


def _rounds(rounds: int, result: FlowerResult, counts: list[Counts]) -> list[dict[str, Any]]:
    """One row a round in the schema of Flower's Result, and what became of that round's messages."""
    trained = [each for each in counts if each.message_type.startswith("train")]
    rows = []
    for round in range(rounds + 1):
        row: dict[str, Any] = {"round": round}
        for key, history in (
            ("train_metrics", result.train_metrics_clientapp),
            ("evaluate_metrics_clientapp", result.evaluate_metrics_clientapp),
            ("evaluate_metrics_serverapp", result.evaluate_metrics_serverapp),
        ):
            row[key] = dict(history[round]) if round in history else None
        row["counts"] = asdict(trained[round - 1]) if 1 <= round <= len(trained) else None
        rows.append(row)
    return rows


server = ServerApp()
"""The server of `flwr run .`; the run config names the experiment."""


@server.main()
def _serve(grid: Grid, context: Context) -> None:
    experiment, root = _configured(context)
    out = str(context.run_config.get("out", ""))
    folder = files.new_folder(Path(out) if out else files.default_folder(experiment.name, experiment.seed))
    world = world_of(experiment.to_json(), root)
    write_config(world, folder, backend="flwr run")
    collect(world, grid, folder, print)
    result = finish(world, folder, print, run_here)
    print(f"results: {result.folder}")


def _configured(context: Context) -> tuple[Experiment, Path | None]:
    config = context.run_config
    experiment = load_experiment(str(config["experiment"]), seed=int(config["seed"]))
    return experiment, data_root(str(config.get("data-root", "")))


def _configured_party(message: Message, context: Context) -> Party:
    experiment, root = _configured(context)
    return _party(experiment.to_json(), root, message, context)


client = gradient_app(_configured_party)
"""The client of `flwr run .`."""
