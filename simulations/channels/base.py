"""A channel in its four parts: its rounds, its adversary, how observations are grouped, how guesses are evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import nn

from fl_privacy.accounting import Guarantee
from fl_privacy.attacks import Attack
from fl_privacy.evaluation import Truth
from fl_privacy.metrics import MatchedSet
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation, Positions, blank_model
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.strategies.records import Schema, ValidatingGrid

Sink = Callable[[int, Observation], None]
"""Takes what the adversary saw: the condition, the observation."""
FederationOf = Callable[[Message, Context], Federation]
Row = PlainTable
READING = (
    "PSNR: higher means that more of the image leaked; at the controls' level its pixels are no closer than a blind "
    "guess's. Labels leak separately, and a faint outline can survive a low PSNR: look at the figure. Where PSNR is "
    "low, compare the losses, the attack's own objective: higher at the guess than at the truth, and the attack "
    "failed, so that the defence may claim nothing; not higher, and it cannot tell its guess from the truth."
)


Over = Callable[[int, float], None]
"""Told that all messages of a condition, up to this round, are in the run folder and stay as they are."""


def nobody(condition: int, round: float) -> None:
    """An `Over` where nobody waits for messages."""


@dataclass(frozen=True)
class RunContext:
    """Where a run stands while its rounds are under way: its folder, where progress goes, who waits for messages."""

    folder: Path
    note: Callable[[str], None]
    over: Over = nobody


@dataclass(frozen=True)
class Tried:
    """A classifier to be tried on `images` images, because it will meet no fewer of them in one mini-batch."""

    model: nn.Module
    classes: int
    images: int = 2


class Rounds(ABC):
    """What runs on Flower: the messages, the clients, and the rounds of every condition. Without state."""

    examples_have_gradients: ClassVar[bool] = False
    """Whether clients compute gradients in the way that a defence wants which acts on those of single examples."""

    def check(self, experiment: Experiment) -> None:  # noqa: B027 (a hook)
        """What must fit together in this channel's experiments.

        Raises:
            ValueError: what does not.
        """

    def check_federation(self, federation: Federation) -> None:  # noqa: B027 (a hook)
        """What must fit together once the data are there.

        Raises:
            ValueError: what does not.
        """

    def tried(self, federation: Federation) -> Sequence[Tried]:
        """The classifiers that are tried for one step before anything starts."""
        return (Tried(federation.model(), federation.spec.classes),)

    def workers_at_once(self, experiment: Experiment) -> int:
        """How many Ray workers the clients of a round cannot do without."""
        return 1

    def check_workers(self, experiment: Experiment, workers: int) -> None:  # noqa: B027 (a hook)
        """Whether that many Ray workers are enough.

        Raises:
            ValueError: they are not.
        """

    def prepare(self, federation: Federation, run_context: RunContext) -> None:  # noqa: B027 (a hook)
        """What has to be there before the clients start, such as a trained model."""

    @abstractmethod
    def schemas(self, federation: Federation) -> Mapping[str, Schema]:
        """What the guard lets through, by message type."""

    @abstractmethod
    def client(self, federation_of: FederationOf) -> ClientApp:
        """The clients of this channel."""

    @abstractmethod
    def collect(self, federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext) -> list[Row]:
        """Run the rounds of every condition: one row each, {'defence': label, 'rounds': rows of `round_rows`}."""


class Adversary(ABC):
    """What the channel's adversary holds beside the messages."""

    @abstractmethod
    def knowledge(self, experiment: Experiment, condition: int) -> frozenset[str]:
        """The optional fields of an observation that the adversary of this condition holds."""

    def blank(self, experiment: Experiment, spec: Spec) -> nn.Module:
        """The module whose weights an observation's `model` was saved with."""
        return blank_model(experiment, spec)

    def add_knowledge(
        self, federation: Federation, folder: Path, seen: dict[Key, Observation]
    ) -> dict[Key, Observation]:
        """The saved observations with what this channel's adversary holds beside them (query, public images)."""
        return seen

    def bind_artifacts(self, federation: Federation, attack: Attack, condition: int, folder: Path) -> Attack | None:
        """The attack with what the run in `folder` left for it here, such as a decoder; None to leave it out."""
        return attack


class Grouping:
    """Which observations an attack is given, which of them together, and whose guess is scored."""

    def selects(self, attack: Attack, key: Key) -> bool:
        """Whether this attack is given this observation at all."""
        return True

    def is_scored(self, key: Key) -> bool:
        """Whether the guess for this observation is kept and scored: of many releases of one input only one is."""
        return True

    def group(self, experiment: Experiment, attack: Attack, key: Key) -> tuple[int, ...]:
        """Observations of one group go to one attack call."""
        return key.condition, key.round


class Evaluation(ABC):
    """What the evaluator alone knows, and what the report adds.

    `columns`: what the report shows beside the common columns, heading to (key, format); `unshown`: keys of common
    columns that say nothing in this channel. `set_metrics`: the metrics of sets that every row has; `provides`: what
    `matched_set` has of that which metrics of sets may need. `tells_success`: whether rows say how often an image was
    recovered.
    """

    columns: Mapping[str, tuple[str, str]] = {}
    unshown: frozenset[str] = frozenset()
    set_metrics: tuple[str, ...] = ()
    tells_success: bool = False
    provides: frozenset[str] = frozenset({"gallery"})

    @abstractmethod
    def truth(self, federation: Federation, client: int, round: int) -> Truth:
        """The private batch behind an observation."""

    def guarantee(self, federation: Federation, condition: int) -> Guarantee | None:
        """What the condition's defences guarantee over the run; None where this channel does not account for it."""
        return None

    def control_pool(self, federation: Federation) -> Positions:
        """Images of the same kind from which the controls guess: nobody's target, and nothing was trained on them.

        The scorer checks the latter against `trained_on`.
        """
        return federation.sampled(federation.every("test").without(federation.public_positions))

    def class_is_read(self, experiment: Experiment) -> bool:
        """Whether the adversary of some condition gets the label beside the image, so that a control may know it."""
        return False

    def trained_on(self, federation: Federation, condition: int) -> tuple[Positions, ...]:
        """The images that any model or attack of this condition was trained on: the clients', and the adversary's own.

        The evaluator's classifier that reads classes is no part of a condition.
        """
        return Positions("train", torch.cat(list(federation.parts))), *federation.public_positions

    def matched_set(self, federation: Federation, group: Sequence[Scored]) -> MatchedSet:
        """The images of one row of the summary that came back, with what the evaluator has to judge them."""
        labels = [each.guess.labels for each in group if each.guess.labels is not None]
        return MatchedSet(
            guesses=torch.cat([each.images for each in group]),
            truth=torch.cat([each.truth.inputs for each in group]),
            labels=torch.cat([each.truth.labels for each in group]),
            guessed_labels=torch.cat(labels) if len(labels) == len(group) else None,
            classes=federation.spec.classes,
            gallery=lambda: federation.images_at(self.control_pool(federation)),
            seed=federation.experiment.seed,
        )

    def says_nothing(self, federation: Federation, condition: int) -> frozenset[str]:
        """Keys of a row that have no meaning in this condition."""
        return frozenset()

    def reading(self, summary: Sequence[ReadTable]) -> str:
        """How to read the table of this summary: what stands below it."""
        return READING


@dataclass(frozen=True)
class Channel:
    """One channel: `protocol` is the frozen dataclass of an experiment's `protocol` table, `holds` the split that is
    dealt to the clients."""

    name: ChannelName
    protocol: type
    rounds: Rounds
    adversary: Adversary
    evaluation: Evaluation
    grouping: Grouping = field(default_factory=Grouping)
    holds: Literal["train", "test"] = "train"
