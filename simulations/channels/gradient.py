"""Gradient sharing, and its kin that share weight updates, as any of Flower's strategies runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import flwr.serverapp.strategy as flower
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from fl_privacy.attacks.gradient.matching import check_matchable
from fl_privacy.federated.client import ClientTask, accuracy, calibrate
from fl_privacy.federated.example_gradients import check_examples
from fl_privacy.federated.local_training import normalised
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import one_thread, subseed
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels.base import (
    Channel,
    FederationOf,
    Rounds,
    Row,
    RunContext,
    Sink,
    Tried,
)
from fl_privacy.simulations.channels.gradient_evaluation import Batches, Server
from fl_privacy.simulations.channels.gradient_protocol import FedSGD, WeightUpdates
from fl_privacy.simulations.channels.round_log import round_rows
from fl_privacy.simulations.channels.unfinished import of_training, resumable
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import step
from fl_privacy.strategies.federated.client import local_config
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_app, gradient_schema
from fl_privacy.strategies.observer import HonestButCurious
from fl_privacy.strategies.records import Schema, ValidatingGrid, condition_of, pack, unpack
from fl_privacy.strategies.state import StrategyState
from fl_privacy.weights import load_weights, tied


class GradientRounds(Rounds):
    """A client's batch gradient, each round, to a server that steps on their mean."""

    examples_have_gradients: ClassVar[bool] = True
    channel: ClassVar[ChannelName] = ChannelName.GRADIENT
    statistics_travel: ClassVar[bool] = False
    """Whether clients send running statistics of batch normalisation, so that the server has any to evaluate with."""

    def check(self, experiment: Experiment) -> None:
        if experiment.inference_defences:
            raise ValueError(
                f"'inference_defences' has no meaning on the {self.channel} channel: nothing is served there, the "
                "messages of training are what leaks, and they would be sent without the training defences that the "
                "table names. Put these chains into 'training_defences'"
            )

    def check_federation(self, federation: Federation) -> None:
        _check_public(federation)
        images = federation.held_out[0][: federation.experiment.attacked_images]
        check_matchable(federation.model(), images, federation.spec.classes)
        for index, condition in enumerate(federation.experiment.conditions):
            if condition.trained.by_example:
                model = federation.model()
                check_examples(model.eval() if self._spec(federation, index).local.mode == "eval" else model)

    def tried(self, federation: Federation) -> Sequence[Tried]:
        experiment, classes = federation.experiment, federation.spec.classes
        locals_of = [self._spec(federation, index).local for index in range(len(experiment.conditions))]
        counts = {experiment.images_in(round) for round in range(1, experiment.rounds + 1)}
        batches = {(count, min(each.batch_size or count, count)) for count in counts for each in locals_of}
        smallest = min(count % size or size for count, size in batches)
        return (Tried(federation.model(), classes, min(2, smallest)),)

    def schemas(self, federation: Federation) -> Mapping[str, Schema]:
        experiment = federation.experiment
        most = max(experiment.batch_size, experiment.attacked_images)
        return {"train.gradient": gradient_schema(federation.model(), max_examples=most)}

    def client(self, federation_of: FederationOf) -> ClientApp:
        return gradient_app(lambda message, context: _client_task(message, context, federation_of))

    def collect(self, federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext) -> list[Row]:
        return [
            self._run_condition(federation, condition, grid, sink, run_context)
            for condition in range(len(federation.experiment.condition_labels))
        ]

    def _run_condition(
        self, federation: Federation, condition: int, grid: ValidatingGrid, sink: Sink, run_context: RunContext
    ) -> Row:
        experiment, spec = federation.experiment, self._spec(federation, condition)
        honest = self._honest(federation, condition)
        curious = HonestButCurious(
            honest,
            partial(_to_condition, sink, condition),
            federation.model,
            spec,
            experiment.attacked_rounds,
            self.channel,
            self._settings(experiment, condition).secure_aggregation,
        )
        state, over = StrategyState(honest), partial(run_context.over, condition)
        rounds = resumable(run_context.folder, str(condition), curious, state, over)
        result = rounds.start(
            grid,
            pack(federation.model().state_dict()),
            num_rounds=experiment.rounds,
            timeout=experiment.timeout,
            train_config=ConfigRecord({"condition": condition, **self._config(spec)}),
            evaluate_fn=partial(_evaluate, federation, condition, run_context, self.statistics_travel, spec.local),
        )
        rows = round_rows(experiment.rounds, result, of_training(rounds.counts))
        return {"defence": experiment.condition_labels[condition], "rounds": rows}

    def _honest(self, federation: Federation, condition: int) -> Strategy:
        experiment = federation.experiment
        shared = tied(federation.model())
        return GradientSharing(experiment.clients_per_round, experiment.learning_rate, experiment.seed, shared)

    def _settings(self, experiment: Experiment, condition: int) -> FedSGD | WeightUpdates:
        return experiment.conditions[condition].settings(FedSGD)

    def _spec(self, federation: Federation, condition: int) -> Spec:
        """The public facts of this condition's protocol."""
        return federation.spec

    def _config(self, spec: Spec) -> PlainTable:
        return {}


class UpdateRounds(GradientRounds):
    """A client's change of the weights by its local training, to one of Flower's own strategies."""

    channel: ClassVar[ChannelName] = ChannelName.UPDATE
    statistics_travel: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        super().check(experiment)
        if experiment.clients_per_round != experiment.clients:
            raise ValueError(
                f"'clients_per_round' ({experiment.clients_per_round}) must be 'clients' ({experiment.clients}) on the "
                "update channel: Flower's strategies draw clients from a generator that no seed reaches"
            )
        for condition in experiment.conditions:
            _check_local(condition.settings(WeightUpdates), experiment)

    def schemas(self, federation: Federation) -> Mapping[str, Schema]:
        return {}

    def _honest(self, federation: Federation, condition: int) -> Strategy:
        experiment, count = federation.experiment, federation.experiment.clients
        counts = {"min_train_nodes": count, "min_evaluate_nodes": count, "min_available_nodes": count}
        settings = self._settings(experiment, condition)
        own = {"proximal_mu": settings.local.proximal} if settings.strategy == "FedProx" else {}
        made: Strategy = getattr(flower, settings.strategy)(fraction_evaluate=0.0, **counts, **own)
        return made

    def _settings(self, experiment: Experiment, condition: int) -> WeightUpdates:
        return experiment.conditions[condition].settings(WeightUpdates)

    def _spec(self, federation: Federation, condition: int) -> Spec:
        experiment = federation.experiment
        local = self._settings(experiment, condition).local
        return replace(federation.spec, local=replace(local, learning_rate=experiment.learning_rate))

    def _config(self, spec: Spec) -> PlainTable:
        return local_config(spec.local)


def _check_local(settings: WeightUpdates, experiment: Experiment) -> None:
    local, images = settings.local, experiment.batch_size
    most = max(images, experiment.attacked_images)
    if local.learning_rate not in (0, experiment.learning_rate):
        raise ValueError(
            f"'local' has learning_rate {local.learning_rate}, and the experiment's is {experiment.learning_rate}: "
            "leave it out of 'local', where the experiment's counts"
        )
    if local.proximal and settings.strategy != "FedProx":
        raise ValueError(f"'local.proximal' is FedProx's, and the strategy is {settings.strategy}")
    if local.batch_size > images:
        raise ValueError(
            f"'local.batch_size' ({local.batch_size}) is more than the 'batch_size' images of a round, {images}"
        )
    if local.steps * (local.batch_size or most) < most and local.steps:
        raise ValueError(
            f"{local.steps} steps of 'local' on {local.batch_size} images each use fewer than the images of a round, "
            f"{most}: lower 'batch_size', or 'attacked_batch_size', so that no image counts that never entered"
        )


GRADIENT = Channel(ChannelName.GRADIENT, FedSGD, GradientRounds(), Server(), Batches())
UPDATE = Channel(ChannelName.UPDATE, WeightUpdates, UpdateRounds(), Server(), Batches())


def _check_public(federation: Federation) -> None:
    """Check that no public image is a client's.

    Raises:
        ValueError: the adversary owns images that clients train with, or none of that set is there.
    """
    experiment, public = federation.experiment, federation.public()
    settings = experiment.public
    if public is None or settings["name"] != experiment.dataset["name"] or settings.get("split", "train") != "train":
        return
    first = settings.get("first", 0)
    shared = sum(int(((part >= first) & (part < first + len(public))).sum()) for part in federation.parts)
    if shared:
        raise ValueError(
            f"the adversary's 'public' images are training images {first} to {first + len(public)}, of which clients "
            f"hold {shared}, and it must never have a victim's: keep the clients to others with 'train_images', or "
            "set public.first and public.count"
        )


def _client_task(message: Message, context: Context, federation_of: FederationOf) -> ClientTask:
    """A client of one condition; batches are the same in every condition, the defences' draws are not."""
    federation, condition = federation_of(message, context), condition_of(message)
    seed = subseed(federation.experiment.seed, "party", condition)
    experiment = federation.experiment
    return ClientTask(federation.model, federation.batch, experiment.chains[condition], seed, experiment.device)


def _to_condition(sink: Sink, condition: int, seen: Observation) -> None:
    sink(condition, seen)


@one_thread()
def _evaluate(
    federation: Federation,
    condition: int,
    run_context: RunContext,
    statistics_travel: bool,
    local: LocalTraining,
    round: int,
    arrays: ArrayRecord,
) -> MetricRecord:
    """The server's accuracy and loss on held-out images.

    Where clients send gradients and no running statistics, batch normalisation takes those of the held-out inputs.
    """
    experiment, model = federation.experiment, federation.model()
    load_weights(model, unpack(arrays))
    images, labels = federation.held_out
    if not statistics_travel and calibrate(model, images) and round == 0 and condition == 0:
        run_context.note(
            "no client sends running statistics with a gradient: the accuracy is measured with those of the held-out "
            "images' inputs"
        )
    hits, loss = accuracy(model, normalised(images, local), labels)
    words = f"round {round} of {experiment.rounds}, accuracy {hits:.1%}, loss {loss:.3f}"
    detail = f"defence {experiment.condition_labels[condition]}: {words}"
    all_rounds = len(experiment.conditions) * experiment.rounds
    step(run_context.note, "rounds", condition * experiment.rounds + round, all_rounds, detail)
    return MetricRecord({"accuracy": hits, "loss": loss})
