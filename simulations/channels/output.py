"""Private inference: a server hands a classifier out, and the users send what it says about their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy.attacks import Attack
from fl_privacy.attacks.vicious import Vicious
from fl_privacy.client import Party
from fl_privacy.data import class_sample
from fl_privacy.defences.outputs import ArgMax, Softmax
from fl_privacy.evaluation import Truth
from fl_privacy.joint_training import load_pair, outputs
from fl_privacy.joint_training.pair import OUTPUTS
from fl_privacy.joint_training.scores import targets
from fl_privacy.observation import Channel, Images, Observation, Spec
from fl_privacy.seeding import subseed
from simulations.channels.base import Kind, Place, Row, Sink, WorldOf, round_rows
from simulations.channels.output_pairs import pair_of, relevant, sizes, split, train_pairs
from simulations.channels.output_protocol import JointServer
from simulations.channels.output_scores import leak, suspicion, use
from strategies.inference import QUERY, PrivateInference, inference_app, outputs_schema
from strategies.messages import OrderlyGrid, Schema, arm_of, pack

if TYPE_CHECKING:
    from simulations.experiment import Arm, Experiment
    from simulations.scoring import Scored
    from simulations.storage import Key
    from simulations.world import World

STRANGERS = 1000


class Output(Kind):
    """A classifier's answers to private images, once a client, through the clients' defences; nothing is trained.

    What is trained, and when: the server's classifier and decoder, before the clients start.
    """

    channel: ClassVar[Channel] = Channel.OUTPUT
    protocol: ClassVar[type] = JointServer
    holds: ClassVar[Literal["train", "test"]] = "test"
    unshown: ClassVar[frozenset[str]] = frozenset({"mse", "label_accuracy"})
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "PSNR\npooled": ("pooled_psnr", "{:.2f}"),
        "R pub-\nlished": ("risk_published", "{:.3f}"),
        "R well-\nposed": ("risk_well_posed", "{:.3f}"),
        "entropy\n(bits)": ("model_entropy", "{:.2f}"),
        "bits\nat most": ("model_bits", "{:.1f}"),
        "1 - S": ("model_viciousness", "{:.4f}"),
    }

    def grants(self, experiment: Experiment, arm: int) -> frozenset[str]:
        return frozenset({"model", "query", *(("public",) if experiment.public else ())})

    def check(self, experiment: Experiment) -> None:
        if experiment.train_images:
            raise ValueError(
                "clients of the output channel hold test images, all of them: 'train_images' says nothing there, and "
                "'protocol.images' how many training images the server uses"
            )
        if (experiment.rounds - 1) * experiment.clients_per_round >= experiment.clients:
            raise ValueError(
                f"every client answers once, so {experiment.clients} clients need no {experiment.rounds} rounds of "
                f"{experiment.clients_per_round}"
            )
        for arm in experiment.each_arm:
            exclusive = [each for each in arm.released.defences if isinstance(each, Softmax | ArgMax)]
            if arm.rules.task == "attributes" and exclusive:
                raise ValueError("softmax and arg_max need classes that exclude each other, and attributes do not")

    def check_world(self, world: World) -> None:
        for arm in world.experiment.each_arm:
            sizes(world, arm.rules)

    def prepare(self, world: World, place: Place) -> None:
        train_pairs(world, place)

    def schemas(self, world: World) -> Mapping[str, Schema]:
        return {}  # set for every arm, because arms may differ in how many outputs they have

    def client(self, world_of: WorldOf) -> ClientApp:
        return inference_app(partial(self._party, world_of))

    def _party(self, world_of: WorldOf, message: Message, context: Context) -> Party:
        world, index = world_of(message, context), arm_of(message)
        experiment = world.experiment
        arm = experiment.each_arm[index]
        blank = partial(self.blank, experiment, answers_of(world, arm))
        return Party(blank, world.batch, arm.released, subseed(experiment.seed, "party", index))

    def collect(self, world: World, grid: OrderlyGrid, sink: Sink, place: Place) -> list[Row]:
        suspicions: dict[str, dict[str, float]] = {}
        rows = []
        for index, arm in enumerate(world.experiment.each_arm):
            checkpoint = pair_of(place.folder, index)["checkpoint"]
            classifier: nn.Module = load_pair(checkpoint, networks(world, arm)).classifier
            if checkpoint not in suspicions:
                suspicions[checkpoint] = suspicion(world, arm.rules, classifier)
            rows.append(self._run_arm(world, index, classifier, suspicions[checkpoint], grid, sink))
            measured = rows[-1]["rounds"][-1]["evaluate_metrics_serverapp"] or {}
            place.note(f"{arm.label}: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
        return rows

    def _run_arm(
        self,
        world: World,
        index: int,
        classifier: nn.Module,
        known: Mapping[str, float],
        grid: OrderlyGrid,
        sink: Sink,
    ) -> Row:
        experiment, start = world.experiment, len(grid.rounds)
        arm, answers = experiment.each_arm[index], list[Observation]()
        spec = answers_of(world, arm)
        grid.schemas[QUERY] = outputs_schema(spec)

        def take(seen: Observation) -> None:
            answers.append(seen)
            if seen.round in experiment.attacked_rounds:
                sink(index, seen)

        def measure(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            return MetricRecord({**_used(world, arm, answers), **known}) if answers else None

        result = PrivateInference(
            experiment.clients_per_round, take, partial(self.blank, experiment, spec), spec
        ).start(
            grid,
            pack(classifier.state_dict()),
            num_rounds=experiment.rounds,
            timeout=experiment.timeout,
            train_config=ConfigRecord({"arm": index}),
            evaluate_fn=measure,
        )
        asked = [each for each in grid.rounds[start:] if each.message_type == QUERY]
        return {"defence": arm.label, "rounds": round_rows(experiment.rounds, result, list(enumerate(asked, start=1)))}

    def truth(self, world: World, client: int, round: int) -> Truth:
        return Truth(*world.batch(client, round))

    def strangers(self, world: World) -> Images:
        """Validation images of the server: no client has one of them, and no decoder was trained on them."""
        own = split(world, world.experiment.rules).validation
        index = class_sample(own.labels, STRANGERS).sort().values
        return Images(own.images(index), own.labels[index])

    def equip(self, world: World, folder: Path, seen: dict[Key, Observation]) -> dict[Key, Observation]:
        public = world.public()
        return {
            key: dataclasses.replace(each, public=public, query=partial(_ask, each.model))
            for key, each in seen.items()
            if each.model is not None
        }

    def armed(self, world: World, attack: Attack, arm: int, folder: Path) -> Attack | None:
        """`vicious` gets the decoder that was trained with its arm's classifier; an honest server has none."""
        if not isinstance(attack, Vicious) or attack.checkpoint:
            return attack
        if world.experiment.each_arm[arm].rules.honest:
            return None
        trusted = networks(world, world.experiment.each_arm[arm])
        return dataclasses.replace(attack, checkpoint=pair_of(folder, arm)["checkpoint"], trusted=trusted)

    def group(self, experiment: Experiment, attack: Attack, key: Key) -> tuple[int, ...]:
        return (key.arm,)

    def extras(self, world: World, seen: Mapping[Key, Observation], group: Sequence[Scored]) -> Row:
        row = leak(world, group)
        if world.experiment.each_arm[group[0].key.arm].rules.task == "attributes":
            row["label_accuracy"] = None  # an attribute is no label: accuracy is the model's column
        return row

    def reading(self, summary: Sequence[Mapping[str, Any]]) -> str:
        cuts = [f"R {name.replace('_', '-')}: {summary[0][f'risk_{name}_cut']}" for name in ("published", "well_posed")]
        return (
            "PSNR: higher means that more of the image leaked; at the controls' level it is no better than a blind "
            "guess. Pooled: of the mean error over all images, as the paper prints it. R: 1 is as near as the data's "
            f"mean in the data's own geometry, more is nearer ({'; '.join(cuts)}). Entropy of an answer; bits that one "
            "can carry at most; 1 - S: how far a user's fine-tuning moves the answers, near 0 for an honest model. "
            "Accuracy is that of the answers as released."
        )


def _ask(model: nn.Module, images: Tensor) -> Tensor:
    """The classifier's answers, computed where the images are."""
    return outputs(model.to(images.device), images)


def networks(world: World, arm: Arm) -> tuple[str, str]:
    """The networks that the experiment itself names, and so the only code that an arm's checkpoint may ask for."""
    spec = arm.rules.spec(world.data, world.experiment.model)
    return spec.classifier, spec.decoder


def answers_of(world: World, arm: Arm) -> Spec:
    """The public facts of an arm's answers: as many numbers an image as its classifier has outputs."""
    return dataclasses.replace(world.spec, classes=len(arm.rules.names(world.data)), training_mode=False)


def _used(world: World, arm: Arm, answers: Sequence[Observation]) -> dict[str, float]:
    """What the answers of an arm's clients were worth to them."""
    private = [relevant(world, arm.rules, world.drawn(each.client, each.round)) for each in answers]
    wanted = torch.cat([targets(arm.rules.task, each) for each in private])
    released = torch.cat([each.payload[OUTPUTS] for each in answers])
    return use(arm.rules, arm.rules.names(world.data), arm.released, released, wanted)
