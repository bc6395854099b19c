"""Split learning: activations of a cut layer, to a server that holds the rest of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_privacy.attacks import Attack
from fl_privacy.attacks.activation.decoder import DecoderAsPublished, LearnedDecoder, check_count
from fl_privacy.checkpoints import under
from fl_privacy.defences import Chain
from fl_privacy.defences.learning import learns, with_learnt
from fl_privacy.evaluation import Truth
from fl_privacy.metrics import MatchedSet
from fl_privacy.observation import ChannelName, KnownDefence, Observation
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.channels.activation.collection import collect, learnt_file, weights_file
from fl_privacy.simulations.channels.activation.federation import (
    check_images,
    client_task,
    released_shape,
    targets,
)
from fl_privacy.simulations.channels.activation.protocol import SplitProtocol, check_protocol, training_of, trainings
from fl_privacy.simulations.channels.activation.scores import judge
from fl_privacy.simulations.channels.base import (
    Adversary,
    Channel,
    Evaluation,
    FederationOf,
    Grouping,
    Rounds,
    Row,
    RunContext,
    Sink,
)
from fl_privacy.simulations.channels.instances import INSTANCE, instances
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.simulations.results.storage import load_own_weights
from fl_privacy.split.rules import SplitClientTask
from fl_privacy.split.segments import BlackBox, segments
from fl_privacy.strategies.records import CONFIG, Schema, ValidatingGrid, condition_of
from fl_privacy.strategies.split.strategy import split_app, split_schemas

ASKABLE = frozenset({"query", "model"})
"""What an adversary can hold of the client segment."""


class SplitRounds(Rounds):
    """Split learning, then inference rounds in which clients release private inputs."""

    def check(self, experiment: Experiment) -> None:
        check_protocol(experiment)

    def check_federation(self, federation: Federation) -> None:
        check_images(federation)
        public, experiment = federation.public(), federation.experiment
        released = [
            (conditions, released_shape(federation, first)) for first, conditions in trainings(experiment).items()
        ]
        for label, attack in experiment.resolved.attacks.items():
            if isinstance(attack, LearnedDecoder) and public is not None:
                check_count(attack.public_images, len(public))
                for conditions, shape in released:
                    if any(experiment.concerns(label, condition) for condition in conditions):
                        attack.build(shape, federation.spec.image_shape)

    def workers_at_once(self, experiment: Experiment) -> int:
        rules = [
            condition.settings(SplitProtocol)
            for condition in experiment.conditions
            if condition.settings(SplitProtocol).parallel and condition.settings(SplitProtocol).link in ("auto", "ray")
        ]
        return max((min(each.together, experiment.clients_per_round) for each in rules), default=1)

    def check_workers(self, experiment: Experiment, workers: int) -> None:
        together = self.workers_at_once(experiment)
        if together > workers:
            raise ValueError(
                f"'protocol.together' lets {together} clients take turns at once, and each needs a Ray worker of its "
                f"own, or is given up: there are {workers}. Ask for --workers {together}, or set "
                f"protocol.together={workers}"
            )

    def schemas(self, federation: Federation) -> Mapping[str, Schema]:
        return split_schemas()

    def client(self, federation_of: FederationOf) -> ClientApp:
        return split_app(lambda message, context: _client_task(message, context, federation_of))

    def collect(self, federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext) -> list[Row]:
        return collect(federation, grid, sink, run_context)


class Wire(Adversary):
    """Whoever sees the wire: one of the three parties of the protocol's `adversary`."""

    def knowledge(self, experiment: Experiment, condition: int) -> frozenset[str]:
        held: frozenset[str] = experiment.conditions[condition].settings(SplitProtocol).adversary_knowledge
        return (held & ASKABLE) | ({"public"} if experiment.public else set())

    def add_knowledge(
        self, federation: Federation, folder: Path, seen: dict[Key, Observation]
    ) -> dict[Key, Observation]:
        """With the client segment as the adversary has it, its public images, and the defence it knows of."""
        experiment, public = federation.experiment, federation.public()
        held: dict[int, PlainTable] = {}
        equipped = {}
        for key, each in seen.items():
            training = training_of(experiment, key.condition)
            if training not in held:
                held[training] = _segment(federation, folder, training)
            adversary_knowledge = experiment.conditions[key.condition].settings(SplitProtocol).adversary_knowledge
            own = {name: value for name, value in held[training].items() if name in adversary_knowledge}
            known = _known(folder, key, each) if "defence" in adversary_knowledge else None
            equipped[key] = replace(each, **own, public=public, defence=known)
        return equipped


class Releases(Grouping):
    """Every client releases one batch of inputs, perhaps several times."""

    def selects(self, attack: Attack, key: Key) -> bool:
        """The first query alone, or as many as the attack averages."""
        return key.round <= getattr(attack, "repeats", 1)

    def is_scored(self, key: Key) -> bool:
        return key.round == 1

    def group(self, experiment: Experiment, attack: Attack, key: Key) -> tuple[int, ...]:
        """All releases of a condition; all of a training's for a decoder that ignores how they were defended."""
        return (training_of(experiment, key.condition) if isinstance(attack, DecoderAsPublished) else key.condition,)


class ActivationEvaluation(Evaluation):
    """The targets behind what clients release; distance correlations, and whether the class can be read."""

    unshown: frozenset[str] = frozenset({"mse", "label_accuracy"})
    set_metrics = ("distance_correlation", "class_recognition", "instance_detail")
    provides = Evaluation.provides | {"judge"}
    columns: Mapping[str, tuple[str, str]] = {
        "dCor\nx, z": ("model_dcor", "{:.3f}"),
        "its\nfloor": ("model_dcor_floor", "{:.2f}"),
        "dCor\nguess": ("dcor_guess", "{:.3f}"),
        "class recog-\nnised": ("class_recognised", "{:.0%}"),
        **INSTANCE,
    }

    def truth(self, federation: Federation, client: int, round: int) -> Truth:
        return Truth(*targets(federation, client))

    def class_is_read(self, experiment: Experiment) -> bool:
        """Where a curious server is sent the labels of the training images that it attacks."""
        rules = [each.settings(SplitProtocol) for each in experiment.conditions]
        return any(each.labels == "server" and each.adversary != "data owner" for each in rules)

    def matched_set(self, federation: Federation, group: Sequence[Scored]) -> MatchedSet:
        return replace(super().matched_set(federation, group), judge=partial(judge, federation))

    def reading(self, summary: Sequence[ReadTable]) -> str:
        readable = next(
            (row["class_recognised_originals"] for row in summary if "class_recognised_originals" in row), 0.0
        )
        n, guesses = (
            next((n for row in summary if (n := row.get(key))), 0) for key in ("model_dcor_n", "dcor_guess_n")
        )
        measured = (
            "dCor x, z: distance correlation of images and activations before any noise, on squared distances as in "
            f"Titcombe et al., n = {n:.0f}; shuffled pairs give its floor, so that only what is above it counts. "
        )
        received = any(row.get("model_accuracy") is not None for row in summary)
        compared = f"dCor guess: the same of images and guesses, n = {guesses:.0f}; with more rows it is lower. "
        return (
            "PSNR: higher means that more of the image leaked; at the controls' level its pixels are no closer than a "
            f"blind guess's. {measured if n else ''}"
            f"{compared if guesses else ''}"
            "Class read: how often a classifier of the evaluator's own sees the true class in the guess "
            f"({readable:.0%} in the images themselves). The verdict takes the receiver's own reading, its "
            f"model's accuracy, where that is more: it needs no attack. "
            f"{instances(summary, received)}Other estimators, what was released after the "
            "noise, and every floor: results.json."
        )


ACTIVATION = Channel(ChannelName.ACTIVATION, SplitProtocol, SplitRounds(), Wire(), ActivationEvaluation(), Releases())
"""What clients of a trained split model release for private inputs, to whoever sees the wire."""


def _client_task(message: Message, context: Context, federation_of: FederationOf) -> SplitClientTask:
    fixed = bool(message.content.config_records[CONFIG].get("fixed", False))
    return client_task(federation_of(message, context), condition_of(message), fixed)


def _known(folder: Path, key: Key, seen: Observation) -> KnownDefence | None:
    """The defence as it runs on the observed client: with what it has learnt there, where it learns."""
    path = learnt_file(folder, key.condition)
    if not isinstance(seen.defence, Chain) or not learns(seen.defence) or not path.exists():
        return seen.defence
    learnt = under(f"{key.client}/", files.read_tensors(path))
    (released,) = seen.payload.values()
    return with_learnt(seen.defence, learnt, seen.spec.image_shape, released.shape[1:])


def _segment(federation: Federation, folder: Path, training: int) -> PlainTable:
    """The client segment of a training, as a black box and whole."""
    model = federation.model()
    load_own_weights(model, weights_file(folder, training))
    client, _ = segments(model, client_task(federation, training).rules)
    return {"query": BlackBox(client.front), "model": client.front.eval()}
