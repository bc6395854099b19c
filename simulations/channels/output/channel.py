"""Private inference: a server hands a classifier out, and the users send what it says about their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy.attacks import Attack
from fl_privacy.attacks.output.decoders import Vicious
from fl_privacy.defences.outputs import ArgMax, Softmax
from fl_privacy.evaluation import Truth
from fl_privacy.federated.client import ClientTask
from fl_privacy.joint_training import load_pair, outputs
from fl_privacy.joint_training.pair import OUTPUTS
from fl_privacy.joint_training.scores import targets
from fl_privacy.metrics import MatchedSet
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import subseed
from fl_privacy.settings import ReadTable
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
    Tried,
)
from fl_privacy.simulations.channels.instances import INSTANCE, instances
from fl_privacy.simulations.channels.output.pairs import pair_of, positions, relevant, sizes, train_pairs
from fl_privacy.simulations.channels.output.protocol import JointServer
from fl_privacy.simulations.channels.output.scores import measures, suspicion, use
from fl_privacy.simulations.channels.output.words import contradiction
from fl_privacy.simulations.channels.round_log import round_rows
from fl_privacy.simulations.channels.unfinished import keep_row, kept_row
from fl_privacy.simulations.experiment.spec import Condition, Experiment
from fl_privacy.simulations.federation import Federation, Positions, blank_model
from fl_privacy.simulations.results.controls import control_of
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.strategies.inference import QUERY, PrivateInference, inference_app, outputs_schema
from fl_privacy.strategies.records import Schema, ValidatingGrid, condition_of, pack


class InferenceRounds(Rounds):
    """A classifier's answers to private images, once a client, through the clients' defences; nothing is trained.

    What is trained, and when: the server's classifier and decoder, before the clients start.
    """

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
        for condition in experiment.conditions:
            exclusive = [each for each in condition.released.defences if isinstance(each, Softmax | ArgMax)]
            if condition.settings(JointServer).task == "attributes" and exclusive:
                raise ValueError("softmax and arg_max need classes that exclude each other, and attributes do not")

    def tried(self, federation: Federation) -> Sequence[Tried]:
        specs = dict.fromkeys(answers_of(federation, condition) for condition in federation.experiment.conditions)
        return [Tried(blank_model(federation.experiment, spec), spec.classes) for spec in specs]

    def check_federation(self, federation: Federation) -> None:
        for condition in federation.experiment.conditions:
            sizes(federation, condition.settings(JointServer))

    def prepare(self, federation: Federation, run_context: RunContext) -> None:
        train_pairs(federation, run_context)

    def schemas(self, federation: Federation) -> Mapping[str, Schema]:
        return {}  # set for every condition, because conditions may differ in how many outputs they have

    def client(self, federation_of: FederationOf) -> ClientApp:
        return inference_app(partial(self._client_task, federation_of))

    def _client_task(self, federation_of: FederationOf, message: Message, context: Context) -> ClientTask:
        federation, index = federation_of(message, context), condition_of(message)
        experiment = federation.experiment
        condition = experiment.conditions[index]
        blank = partial(blank_model, experiment, answers_of(federation, condition))
        seed = subseed(experiment.seed, "party", index)
        return ClientTask(blank, federation.batch, condition.released, seed, experiment.device)

    def collect(self, federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext) -> list[Row]:
        suspicions: dict[str, dict[str, float]] = {}
        rows = []
        for index, condition in enumerate(federation.experiment.conditions):
            if (known := kept_row(run_context.folder, index)) is not None:
                rows.append(known)
                continue
            checkpoint = pair_of(run_context.folder, index)["checkpoint"]
            classifier: nn.Module = load_pair(checkpoint, networks(federation, condition)).classifier
            if checkpoint not in suspicions:
                suspicions[checkpoint] = suspicion(federation, condition.settings(JointServer), classifier)
            rows.append(self._run_condition(federation, index, classifier, suspicions[checkpoint], grid, sink))
            keep_row(run_context, index, rows[-1], federation.experiment.rounds)
            measured = rows[-1]["rounds"][-1]["evaluate_metrics_serverapp"] or {}
            run_context.note(
                f"{condition.label}: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
            )
        return rows

    def _run_condition(
        self,
        federation: Federation,
        index: int,
        classifier: nn.Module,
        known: Mapping[str, float],
        grid: ValidatingGrid,
        sink: Sink,
    ) -> Row:
        experiment, start = federation.experiment, len(grid.rounds)
        condition, answers = experiment.conditions[index], list[Observation]()
        spec = answers_of(federation, condition)
        grid.schemas[QUERY] = outputs_schema(spec)

        def take(seen: Observation) -> None:
            answers.append(seen)
            if seen.round in experiment.attacked_rounds:
                sink(index, seen)

        def measure(round: int, arrays: ArrayRecord) -> MetricRecord | None:
            return MetricRecord({**_used(federation, condition, answers), **known}) if answers else None

        result = PrivateInference(
            experiment.clients_per_round, take, partial(blank_model, experiment, spec), spec
        ).start(
            grid,
            pack(classifier.state_dict()),
            num_rounds=experiment.rounds,
            timeout=experiment.timeout,
            train_config=ConfigRecord({"condition": index}),
            evaluate_fn=measure,
        )
        asked = [each for each in grid.rounds[start:] if each.message_type == QUERY]
        return {
            "defence": condition.label,
            "rounds": round_rows(experiment.rounds, result, list(enumerate(asked, start=1))),
        }


class JointServerAdversary(Adversary):
    """The server that handed the classifier out, with the decoder that it trained beside it."""

    def knowledge(self, experiment: Experiment, condition: int) -> frozenset[str]:
        return frozenset({"model", "query", *(("public",) if experiment.public else ())})

    def add_knowledge(
        self, federation: Federation, folder: Path, seen: dict[Key, Observation]
    ) -> dict[Key, Observation]:
        public = federation.public()
        return {
            key: dataclasses.replace(each, public=public, query=partial(_ask, each.model))
            for key, each in seen.items()
            if each.model is not None
        }

    def bind_artifacts(self, federation: Federation, attack: Attack, condition: int, folder: Path) -> Attack | None:
        """`vicious` gets the decoder that was trained with its condition's classifier; an honest server has none."""
        if not isinstance(attack, Vicious) or attack.checkpoint:
            return attack
        if federation.experiment.conditions[condition].settings(JointServer).honest:
            return None
        trusted = networks(federation, federation.experiment.conditions[condition])
        return dataclasses.replace(attack, checkpoint=pair_of(folder, condition)["checkpoint"], trusted=trusted)


class ByCondition(Grouping):
    """All answers of a condition at once."""

    def group(self, experiment: Experiment, attack: Attack, key: Key) -> tuple[int, ...]:
        return (key.condition,)


class OutputEvaluation(Evaluation):
    """The images behind the answers; the reconstruction risk R and the pooled PSNR of the paper."""

    unshown: frozenset[str] = frozenset({"mse", "label_accuracy"})
    set_metrics = ("pooled_psnr", "reconstruction_risk", "instance_detail")
    provides = Evaluation.provides | {"geometry"}
    columns: Mapping[str, tuple[str, str]] = {
        "PSNR\npooled": ("pooled_psnr", "{:.2f}"),
        "R pub-\nlished": ("risk_published", "{:.3f}"),
        "R well-\nposed": ("risk_well_posed", "{:.3f}"),
        "others\nnearer": ("risk_published_closer", "{:.0%}"),
        **INSTANCE,
        "entropy\n(bits)": ("model_entropy", "{:.2f}"),
        "bits\nat most": ("model_bits", "{:.1f}"),
        "1 - S": ("model_viciousness", "{:.4f}"),
    }

    def truth(self, federation: Federation, client: int, round: int) -> Truth:
        return Truth(*federation.batch(client, round))

    def class_is_read(self, experiment: Experiment) -> bool:
        """An answer names the class, unless it is of attributes."""
        return any(each.settings(JointServer).task != "attributes" for each in experiment.conditions)

    def control_pool(self, federation: Federation) -> Positions:
        """Validation images of the server that no condition's pair was trained on; no client has one of them.

        Without the adversary's public images where any others are left: it may own all that the server has.
        """
        _, free = positions(federation, federation.experiment.resolved.settings(JointServer))
        for condition in range(len(federation.experiment.conditions)):
            free = free.without(self.trained_on(federation, condition))
        unowned = free.without(federation.public_positions)
        return federation.sampled(unowned if len(unowned.index) else free)

    def trained_on(self, federation: Federation, condition: int) -> tuple[Positions, ...]:
        trained, _ = positions(federation, federation.experiment.conditions[condition].settings(JointServer))
        return (trained,)

    def matched_set(self, federation: Federation, group: Sequence[Scored]) -> MatchedSet:
        return dataclasses.replace(super().matched_set(federation, group), geometry=partial(measures, federation))

    def says_nothing(self, federation: Federation, condition: int) -> frozenset[str]:
        """An attribute is no label: accuracy is the model's column."""
        task = federation.experiment.conditions[condition].settings(JointServer).task
        return frozenset({"label_accuracy"}) if task == "attributes" else frozenset()

    def reading(self, summary: Sequence[ReadTable]) -> str:
        row = next((row for row in summary if "risk_published_cut" in row), {})
        names = [name for name in ("published", "well_posed") if row]
        sent = any(row.get("label_accuracy") is not None for row in summary if control_of(row) is None)
        cuts = [f"R {name.replace('_', '-')}: {row[f'risk_{name}_cut']}" for name in names] or ["not measured"]
        return (
            "PSNR: higher means that more of the image leaked; at the controls' level it is no better than a blind "
            "guess. Pooled: of the mean error over all images, as the paper prints it. R: 1 is as near as the data's "
            f"mean in the data's own geometry, more is nearer ({'; '.join(cuts)}). Others nearer: the share of the "
            "other private images that lie nearer to a guess than its own, by R's distance; 50% is chance. "
            f"{contradiction(summary)}{instances(summary, sent)}Entropy of an answer; bits that one can carry at most; "
            "1 - S: how far a user's fine-tuning moves the answers, near 0 for an honest model. "
            "Accuracy is that of the answers as released."
        )


OUTPUT = Channel(
    ChannelName.OUTPUT,
    JointServer,
    InferenceRounds(),
    JointServerAdversary(),
    OutputEvaluation(),
    ByCondition(),
    holds="test",
)
"""A classifier's answers to private images."""


def _ask(model: nn.Module, images: Tensor) -> Tensor:
    """The classifier's answers, computed where the images are."""
    return outputs(model.to(images.device), images)


def networks(federation: Federation, condition: Condition) -> tuple[str, str]:
    """The networks that the experiment itself names, and so the only code that a condition's checkpoint may ask for."""
    spec = condition.settings(JointServer).spec(federation.data, federation.experiment.model)
    return spec.classifier, spec.decoder


def answers_of(federation: Federation, condition: Condition) -> Spec:
    """The public facts of a condition's answers: as many numbers an image as its classifier has outputs."""
    names = condition.settings(JointServer).names(federation.data)
    answering = dataclasses.replace(federation.spec.local, mode="eval")
    return dataclasses.replace(federation.spec, classes=len(names), local=answering)


def _used(federation: Federation, condition: Condition, answers: Sequence[Observation]) -> dict[str, float]:
    """What the answers of a condition's clients were worth to them."""
    rules = condition.settings(JointServer)
    private = [relevant(federation, rules, federation.drawn(each.client, each.round)) for each in answers]
    wanted = torch.cat([targets(rules.task, each) for each in private])
    released = torch.cat([each.payload[OUTPUTS] for each in answers])
    return use(rules, rules.names(federation.data), condition.released, released, wanted)
