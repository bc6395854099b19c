"""Split learning: activations of a cut layer, to a server that holds the rest of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import safetensors.torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_privacy.attacks import Attack
from fl_privacy.attacks.decoder import DecoderAsPublished, LearnedDecoder, check_count
from fl_privacy.data import class_sample
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Channel, Images, Observation
from fl_privacy.split_rules import SplitParty
from fl_privacy.split_training import BlackBox, segments
from simulations.channels.base import Kind, Place, Row, Sink, WorldOf
from simulations.channels.split_collection import collect, weights_file
from simulations.channels.split_protocol import SplitProtocol, check_protocol, training_of, trainings
from simulations.channels.split_scores import of_guesses
from simulations.channels.split_world import check_images, judged, party, released_shape, victims
from strategies.messages import CONFIG, OrderlyGrid, Schema, arm_of
from strategies.split import split_app, split_schemas

if TYPE_CHECKING:
    from simulations.experiment import Experiment
    from simulations.scoring import Scored
    from simulations.storage import Key
    from simulations.world import World

STRANGERS = 1000
ASKABLE = frozenset({"query", "model"})
"""What an adversary can hold of the client segment."""


class Activation(Kind):
    """What clients of a trained split model release for private inputs, to whoever sees the wire."""

    channel: ClassVar[Channel] = Channel.ACTIVATION
    protocol: ClassVar[type] = SplitProtocol
    unshown: ClassVar[frozenset[str]] = frozenset({"mse", "label_accuracy"})
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "dCor\nx, z": ("model_dcor", "{:.3f}"),
        "its\nfloor": ("model_dcor_floor", "{:.2f}"),
        "dCor\nguess": ("dcor_guess", "{:.3f}"),
        "class\nread": ("class_read", "{:.0%}"),
    }

    def grants(self, experiment: Experiment, arm: int) -> frozenset[str]:
        held: frozenset[str] = experiment.each_arm[arm].rules.grants
        return (held & ASKABLE) | ({"public"} if experiment.public else set())

    def check(self, experiment: Experiment) -> None:
        check_protocol(experiment)

    def check_world(self, world: World) -> None:
        check_images(world)
        public, experiment = world.public(), world.experiment
        released = [(arms, released_shape(world, first)) for first, arms in trainings(experiment).items()]
        for label, attack in experiment.attacks.items():
            if isinstance(attack, LearnedDecoder) and public is not None:
                check_count(attack.public_images, len(public))
                for arms, shape in released:
                    if any(experiment.concerns(label, arm) for arm in arms):
                        attack.build(shape, world.spec.image_shape)

    def check_workers(self, experiment: Experiment, workers: int) -> None:
        rules = [arm.rules for arm in experiment.each_arm if arm.rules.parallel and arm.rules.link in ("auto", "ray")]
        together = max((min(each.together, experiment.clients_per_round) for each in rules), default=1)
        if together > workers:
            raise ValueError(
                f"'protocol.together' lets {together} clients take turns at once, and each needs a Ray worker of its "
                f"own, or is given up: there are {workers}. Ask for --workers {together}, or set "
                f"protocol.together={workers}"
            )

    def schemas(self, world: World) -> Mapping[str, Schema]:
        return split_schemas()

    def client(self, world_of: WorldOf) -> ClientApp:
        return split_app(lambda message, context: _party(message, context, world_of))

    def collect(self, world: World, grid: OrderlyGrid, sink: Sink, place: Place) -> list[Row]:
        return collect(world, grid, sink, place)

    def truth(self, world: World, client: int, round: int) -> Truth:
        return Truth(*victims(world, client))

    def strangers(self, world: World) -> Images:
        images, labels = judged(world)
        index = class_sample(labels, STRANGERS).sort().values
        return Images(images[index], labels[index])

    def equip(self, world: World, folder: Path, seen: dict[Key, Observation]) -> dict[Key, Observation]:
        """With the client segment as the arm's adversary has it, its public images, and the defence it knows of."""
        experiment, public = world.experiment, world.public()
        held: dict[int, dict[str, Any]] = {}
        equipped = {}
        for key, each in seen.items():
            training = training_of(experiment, key.arm)
            if training not in held:
                held[training] = _segment(world, folder, training)
            grants = experiment.each_arm[key.arm].rules.grants
            own = {name: value for name, value in held[training].items() if name in grants}
            known = each.defence if "defence" in grants else None
            equipped[key] = replace(each, **own, public=public, defence=known)
        return equipped

    def shown(self, attack: Attack, key: Key) -> bool:
        """The first query alone, or as many as the attack averages."""
        return key.round <= getattr(attack, "repeats", 1)

    def counts(self, key: Key) -> bool:
        return key.round == 1

    def group(self, experiment: Experiment, attack: Attack, key: Key) -> tuple[int, ...]:
        """All releases of an arm; all arms of a training for a decoder that ignores how they were defended."""
        return (training_of(experiment, key.arm) if isinstance(attack, DecoderAsPublished) else key.arm,)

    def reading(self, summary: Sequence[Mapping[str, Any]]) -> str:
        readable = next((row["class_read_originals"] for row in summary), 0.0)
        n, guesses = (
            next((n for row in summary if (n := row.get(key))), 0) for key in ("model_dcor_n", "dcor_guess_n")
        )
        measured = (
            "dCor x, z: distance correlation of images and activations before any noise, on squared distances as in "
            f"Titcombe et al., n = {n:.0f}; shuffled pairs give its floor, so that only what is above it counts. "
        )
        compared = f"dCor guess: the same of images and guesses, n = {guesses:.0f}; with more rows it is lower. "
        return (
            "PSNR: higher means that more of the image leaked; at the controls' level its pixels are no closer than a "
            f"blind guess's. {measured if n else ''}"
            f"{compared if guesses else ''}"
            "Class read: how often a classifier of the evaluator's own sees the true class in the guess "
            f"({readable:.0%} in the images themselves). Other estimators, what was released after the noise, and "
            "every floor: results.json."
        )

    def extras(self, world: World, seen: Mapping[Key, Observation], group: Sequence[Scored]) -> Row:
        return of_guesses(world, group, world.root)


def _party(message: Message, context: Context, world_of: WorldOf) -> SplitParty:
    fixed = bool(message.content.config_records[CONFIG].get("fixed", False))
    return party(world_of(message, context), arm_of(message), fixed)


def _segment(world: World, folder: Path, training: int) -> dict[str, Any]:
    """The client segment of a training, as a black box and whole."""
    model = world.model()
    model.load_state_dict(safetensors.torch.load_file(weights_file(folder, training)))
    client, _ = segments(model, party(world, training).rules)
    return {"query": BlackBox(client.front), "model": client.front.eval()}
