"""The settings of split-learning experiments, who attacks them, and what must fit together in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.metrics.distance_correlation import LEAST_ROWS
from fl_privacy.simulations.experiment.spec import Condition, Experiment
from fl_privacy.split.rules import TITCOMBE, SplitRules

Adversary = Literal["server and data owner", "server", "data owner"]

GRANTS: Mapping[Adversary, frozenset[str]] = {
    "server and data owner": frozenset({"query", "defence"}),
    "server": frozenset({"query", "model"}),
    "data owner": frozenset({"query", "defence"}),
}
"""What each of the three parties holds beside the activations and its public images.

Server and data owner together: the owner's segment answers queries, and the owner's software says what the noise is.
The server alone: a stolen segment, so that it has the weights, but nobody tells it the law of the noise. A data owner
alone: as the first, on activations that it intercepts on their way from other owners.
Source: Titcombe et al. 2021, appendix A.
"""


@dataclass(frozen=True, kw_only=True)
class SplitProtocol:
    """Split learning for `rounds` rounds: in each, every client of the round trains one epoch over its images.

    `cut`, `labels`, `optimiser`, `penalise`: as `SplitRules` has them; the step is the experiment's `learning_rate`.
    `batch_nopeek`: the batch of conditions that train with NoPeek (0: the experiment's). `shuffle=False` takes the
    images in their order, as published. `parallel=False` hands the segment from client to client; True averages the
    segments (SplitFed), `together` clients at a time. `link` carries the mini-batches; 'auto' is a Ray actor on the
    Ray backend, a local object in one process, and messages anywhere else.

    Afterwards the server segment may train on for `server_epochs` on what the fixed client segment releases under the
    serving chain. Then every client releases its slice of the training images `targets` (first, end), `queries` times,
    each with fresh noise; by default 32 a client, never the adversary's, and nobody trains with them where enough
    others are left. Accuracy is that on the test images `evaluated` (first, end; by default 1,000) under the serving
    chain. What is not named is drawn within every class, the same for every seed. The distance correlation of images
    with activations is the mean over batches of `dcor_rows` of them, as its value and its floor depend on that number.

    `adversary`: which of the three parties of Titcombe et al., appendix A; `white_box` hands it the segment's weights.
    `preset` ('as-published' or 'paper') only checks that the experiment is that of Titcombe et al. but for its length.
    Trained models are kept in the folder `cache`, by all that decides their bits, for other experiments to share.
    """

    cut: tuple[str, ...] = ("fc1",)
    labels: Literal["server", "client"] = "server"
    optimiser: Literal["adam", "sgd"] = "adam"
    penalise: Literal["clean", "released"] = "clean"
    batch_nopeek: int = 0
    shuffle: bool = False
    parallel: bool = False
    together: int = 1
    link: Literal["auto", "ray", "messages", "local"] = "auto"
    server_epochs: int = 0
    targets: tuple[int, ...] = ()
    evaluated: tuple[int, ...] = ()
    queries: int = 1
    dcor_rows: int = 32
    adversary: Adversary = "server and data owner"
    white_box: bool = False
    preset: Literal["", "as-published", "paper"] = ""
    cache: str = ""

    def __post_init__(self) -> None:
        for key in ("targets", "evaluated"):
            held = getattr(self, key)
            if held and not (len(held) == 2 and 0 <= held[0] < held[1]):
                raise ValueError(f"'{key}' takes a first image and an end, such as [45000, 45256], not {list(held)}")
        least_of = {
            "queries": 1,
            "dcor_rows": LEAST_ROWS["unbiased"],
            "together": 1,
            "server_epochs": 0,
            "batch_nopeek": 0,
        }
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise ValueError(f"'{key}' must be at least {least}, not {getattr(self, key)}")

    @property
    def adversary_knowledge(self) -> frozenset[str]:
        """What this adversary holds beside the activations and its public images."""
        return GRANTS[self.adversary] | ({"model"} if self.white_box else set())

    def rules(self, learning_rate: float, train_client: bool = True) -> SplitRules:
        """What every party of the training knows."""
        return SplitRules(
            cut=self.cut,
            labels=self.labels,
            optimiser=self.optimiser,
            learning_rate=learning_rate,
            penalise=self.penalise,
            train_client=train_client,
        )


TRAINING = ("cut", "labels", "optimiser", "penalise", "batch_nopeek", "shuffle", "parallel", "together")
"""The settings that change a trained model; conditions that share them and their training chain share one training."""
FIXED = ("targets", "evaluated", "dcor_rows")
"""The settings that no variant may change, because all conditions are scored on the same images, in equal batches."""


def trainings(experiment: Experiment) -> dict[int, list[int]]:
    """The conditions of every training: the first condition of each names it."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, condition in enumerate(experiment.conditions):
        key = (*(getattr(condition.settings(SplitProtocol), name) for name in TRAINING), condition.trained)
        found.setdefault(key, []).append(index)
    return {conditions[0]: conditions for conditions in found.values()}


def training_of(experiment: Experiment, condition: int) -> int:
    """The training that a condition comes from."""
    return next(first for first, conditions in trainings(experiment).items() if condition in conditions)


def batch_size(experiment: Experiment, condition: Condition) -> int:
    """The mini-batch of a condition's training."""
    nopeek = any(isinstance(defence, NoPeek) for defence in condition.trained.defences)
    return (nopeek and condition.settings(SplitProtocol).batch_nopeek) or experiment.batch_size


def check_protocol(experiment: Experiment) -> None:
    """Check what the settings alone can show to be wrong.

    Raises:
        ValueError: it.
    """
    rules = [condition.settings(SplitProtocol) for condition in experiment.conditions]
    for each in rules:
        each.rules(experiment.learning_rate)
    if experiment.attacked_rounds != (1,):
        raise ValueError(
            "'attacked_rounds' has no meaning on the activation channel: the inference rounds are attacked"
        )
    if experiment.min_replies > 1:
        raise ValueError(
            "'min_replies' has no meaning on the activation channel: by the end of a round the server segment has "
            "learnt from every mini-batch, so that no round can be skipped; leave it at 1"
        )
    for key in FIXED:
        if any(getattr(each, key) != getattr(experiment.resolved.settings(SplitProtocol), key) for each in rules):
            raise ValueError(f"a variant cannot change '{key}': all conditions are scored alike")
    most = min(each.queries for each in rules)
    for label, attack in experiment.resolved.attacks.items():
        if (repeats := getattr(attack, "repeats", 1)) > most:
            raise ValueError(f"'{label}' averages {repeats} releases of one input, and 'protocol.queries' is {most}")
    for each in rules:
        if each.preset:
            _check_preset(experiment, each)


def _check_preset(experiment: Experiment, protocol: SplitProtocol) -> None:
    preset = TITCOMBE[protocol.preset]
    wanted: dict[str, tuple[Any, Any]] = {
        "learning_rate": (experiment.learning_rate, preset.rules.learning_rate),
        "batch_size": (experiment.batch_size, preset.batch_size),
        "protocol.batch_nopeek": (protocol.batch_nopeek or experiment.batch_size, preset.batch_size_nopeek),
        "model.name": (experiment.model["name"], "split_cnn"),
        "protocol.shuffle": (protocol.shuffle, False),
        "protocol.dcor_rows": (protocol.dcor_rows, preset.dcor_rows),
    }
    wanted |= {f"model.{key}": (experiment.model.get(key, False), value) for key, value in preset.model.items()}
    for key in ("cut", "labels", "optimiser", "penalise"):
        wanted[f"protocol.{key}"] = (getattr(protocol, key), getattr(preset.rules, key))
    wrong = {key: value for key, (found, value) in wanted.items() if found != value}
    if wrong:
        changes = " ".join(f"--set {key}={_text(value)}" for key, value in wrong.items())
        raise ValueError(f"this is not the experiment of preset '{protocol.preset}', which needs {changes}")
    estimators = {
        d.estimator for condition in experiment.conditions for d in condition.trained.defences if isinstance(d, NoPeek)
    }
    if estimators - {preset.estimator}:
        raise ValueError(f"preset '{protocol.preset}' trains NoPeek with estimator = '{preset.estimator}'")


def _text(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"'[{', '.join(map(_text, value))}]'"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
