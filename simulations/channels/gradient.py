"""Gradient sharing, and its kin that share weight updates, as any of Flower's strategies runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import flwr.serverapp.strategy as flower
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from fl_privacy.attacks.matching import check_matchable
from fl_privacy.client import Party, accuracy, calibrate
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Channel, Observation
from fl_privacy.seeding import subseed
from fl_privacy.weights import load_weights, tied
from simulations.channels.base import Kind, Place, Row, Sink, WorldOf, round_rows
from strategies.curious import Curious
from strategies.gradient import GradientSharing, gradient_app, gradient_schema
from strategies.messages import OrderlyGrid, Schema, arm_of, pack, unpack

if TYPE_CHECKING:
    from simulations.experiment import Experiment
    from simulations.world import World

PROGRESS_LINES = 6  # an arm


@dataclass(frozen=True)
class FedSGD:
    """Gradient sharing has no settings beside the experiment's own."""


@dataclass(frozen=True)
class LocalTraining:
    """Weight updates: one local SGD step at the experiment's learning_rate, averaged by one of Flower's strategies.

    One step, because that is what the attacks of this channel can invert so far.
    """

    strategy: Literal["FedAvg", "FedAvgM", "FedProx", "FedMedian", "FedTrimmedAvg", "FedAdam", "Krum"] = "FedAvg"


class Gradient(Kind):
    """A client's batch gradient, each round, to a server that steps on their mean."""

    channel: ClassVar[Channel] = Channel.GRADIENT
    protocol: ClassVar[type] = FedSGD
    statistics_travel: ClassVar[bool] = False
    """Whether clients send running statistics of batch normalisation, so that the server has any to evaluate with."""

    def grants(self, experiment: Experiment, arm: int) -> frozenset[str]:
        return frozenset({"model"})

    def check_world(self, world: World) -> None:
        images = world.held_out[0][: world.experiment.batch_size]
        check_matchable(world.model(), images, world.spec.classes)

    def schemas(self, world: World) -> Mapping[str, Schema]:
        return {"train.gradient": gradient_schema(world.model(), max_examples=world.experiment.batch_size)}

    def client(self, world_of: WorldOf) -> ClientApp:
        return gradient_app(lambda message, context: _party(message, context, world_of))

    def truth(self, world: World, client: int, round: int) -> Truth:
        return Truth(*world.batch(client, round))

    def collect(self, world: World, grid: OrderlyGrid, sink: Sink, place: Place) -> list[Row]:
        return [self._run_arm(world, arm, grid, sink, place) for arm in range(len(world.experiment.arms))]

    def _run_arm(self, world: World, arm: int, grid: OrderlyGrid, sink: Sink, place: Place) -> Row:
        experiment, start = world.experiment, len(grid.rounds)
        strategy = Curious(
            self._honest(world, arm),
            partial(_to_arm, sink, arm),
            world.model,
            world.spec,
            experiment.attacked_rounds,
            self.channel,
        )
        result = strategy.start(
            grid,
            pack(world.model().state_dict()),
            num_rounds=experiment.rounds,
            timeout=experiment.timeout,
            train_config=ConfigRecord({"arm": arm, **self._config(experiment)}),
            evaluate_fn=partial(_evaluate, world, arm, place, self.statistics_travel),
        )
        trained = [each for each in grid.rounds[start:] if each.message_type.startswith("train")]
        rows = round_rows(experiment.rounds, result, list(enumerate(trained, start=1)))
        return {"defence": experiment.arms[arm], "rounds": rows}

    def _honest(self, world: World, arm: int) -> Strategy:
        experiment = world.experiment
        shared = tied(world.model())
        return GradientSharing(experiment.clients_per_round, experiment.learning_rate, experiment.seed, shared)

    def _config(self, experiment: Experiment) -> dict[str, Any]:
        return {}


class Update(Gradient):
    """A client's change of the weights after a local step, to one of Flower's own strategies."""

    channel: ClassVar[Channel] = Channel.UPDATE
    protocol: ClassVar[type] = LocalTraining
    statistics_travel: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        if experiment.clients_per_round != experiment.clients:
            raise ValueError(
                f"'clients_per_round' ({experiment.clients_per_round}) must be 'clients' ({experiment.clients}) on the "
                "update channel: Flower's strategies draw clients from a generator that no seed reaches"
            )

    def schemas(self, world: World) -> Mapping[str, Schema]:
        return {}

    def _honest(self, world: World, arm: int) -> Strategy:
        experiment, count = world.experiment, world.experiment.clients
        counts = {"min_train_nodes": count, "min_evaluate_nodes": count, "min_available_nodes": count}
        made: Strategy = getattr(flower, experiment.each_arm[arm].rules.strategy)(fraction_evaluate=0.0, **counts)
        return made

    def _config(self, experiment: Experiment) -> dict[str, Any]:
        return {"local-steps": 1, "learning-rate": experiment.learning_rate}


def _party(message: Message, context: Context, world_of: WorldOf) -> Party:
    """A client of one arm; batches are the same in every arm, the defences' draws are not."""
    world, arm = world_of(message, context), arm_of(message)
    seed = subseed(world.experiment.seed, "party", arm)
    return Party(model=world.model, batch=world.batch, chain=world.experiment.chains[arm], seed=seed)


def _to_arm(sink: Sink, arm: int, seen: Observation) -> None:
    sink(arm, seen)


def _evaluate(
    world: World, arm: int, place: Place, statistics_travel: bool, round: int, arrays: ArrayRecord
) -> MetricRecord:
    """The server's accuracy and loss on held-out images.

    Where clients send gradients and no running statistics, batch normalisation takes those of the held-out inputs.
    """
    experiment, model = world.experiment, world.model()
    load_weights(model, unpack(arrays))
    if not statistics_travel and calibrate(model, world.held_out[0]) and round == 0 and arm == 0:
        place.note(
            "no client sends running statistics with a gradient: the accuracy is measured with those of the held-out "
            "images' inputs"
        )
    hits, loss = accuracy(model, *world.held_out)
    if round % max(1, experiment.rounds // PROGRESS_LINES) == 0 or round == experiment.rounds:
        progress = f"round {round} of {experiment.rounds}, accuracy {hits:.1%}, loss {loss:.3f}"
        place.note(f"defence {experiment.arms[arm]}: {progress}")
    return MetricRecord({"accuracy": hits, "loss": loss})
