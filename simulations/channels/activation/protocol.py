"""The settings of split-learning experiments, who attacks them, and what must fit together in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fl_privacy.defences.base import Chain
from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.defences.shredder import Shredder
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

Server and data owner together: the owner's segment answers queries, and the owner's software says what the noise is and
what its defences have learnt. The server alone: a stolen segment, so that it has the weights, but nobody tells it the
law of the noise. A data owner alone: as the first, on activations that it intercepts on their way from other owners.
Source: Titcombe et al. 2021, appendix A.
"""


@dataclass(frozen=True, kw_only=True)
class SplitProtocol:
    """Split learning for `rounds` rounds: in each, every client of the round trains one epoch over its images.

    Afterwards the server segment may train on for `server_epochs` on what the fixed client segment releases under the
    serving chain, or, for `defence_epochs`, both are fixed and a serving chain that has something to learn learns it.
    Then every client releases its slice of the training images `targets`, `queries` times, each with fresh noise. What
    is not named is drawn within every class, the same for every seed. The step is the experiment's `learning_rate`.
    """

    cut: tuple[str, ...] = ("fc1",)
    """The stages after which the model is cut: one, or two for U-shaped training."""
    labels: Literal["server", "client"] = "server"
    """Who computes the loss: the server, or (U-shape) the client."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Of both segments."""
    penalise: Literal["clean", "released"] = "clean"
    """Whether NoPeek's term looks at the activation before or after the defences."""
    batch_nopeek: int = 0
    """The batch of conditions that train with NoPeek; 0 is the experiment's."""
    shuffle: bool = False
    """Whether epochs draw an order; False takes the images as they lie, as published."""
    parallel: bool = False
    """Whether clients train at once and their segments are averaged (SplitFed); False hands the segment on."""
    together: int = 1
    """How many parallel clients at a time."""
    link: Literal["auto", "ray", "messages", "local"] = "auto"
    """What carries mini-batches; auto is a Ray actor on Ray, a local object in one process, else messages."""
    server_epochs: int = 0
    """Epochs in which the server segment alone trains on."""
    defence_epochs: int = 0
    """Epochs in which nothing is trained but what serving defences learn (shredder), instead of `server_epochs`."""
    targets: tuple[int, ...] = ()
    """The attacked training images (first, end); by default 32 a client, never the adversary's."""
    evaluated: tuple[int, ...] = ()
    """The test images (first, end) of the accuracy; by default 1,000."""
    queries: int = 1
    """How often every client releases its inputs."""
    dcor_rows: int = 32
    """Rows of one distance correlation, on which its value and its floor depend."""
    adversary: Adversary = "server and data owner"
    """Which of the three parties of Titcombe et al., appendix A."""
    white_box: bool = False
    """Whether the adversary holds the client segment's weights too."""
    preset: Literal["", "as-published", "paper"] = ""
    """Checks that the experiment is that of Titcombe et al. but for its length."""
    cache: str = ""
    """A folder in which trained models are kept, by all that decides their bits, for other experiments."""

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
            "defence_epochs": 0,
            "batch_nopeek": 0,
        }
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise ValueError(f"'{key}' must be at least {least}, not {getattr(self, key)}")
        if self.server_epochs and self.defence_epochs:
            raise ValueError("'server_epochs' train the server segment and 'defence_epochs' fix it: name one of them")

    @property
    def adversary_knowledge(self) -> frozenset[str]:
        """What this adversary holds beside the activations and its public images."""
        return GRANTS[self.adversary] | ({"model"} if self.white_box else set())

    def rules(self, learning_rate: float, fixed: bool = False) -> SplitRules:
        """What every party of the training knows, or of the epochs in which the client segment is `fixed`."""
        return SplitRules(
            cut=self.cut,
            labels=self.labels,
            optimiser=self.optimiser,
            learning_rate=learning_rate,
            penalise=self.penalise,
            train_client=not fixed,
            train_server=not (fixed and self.defence_epochs),
        )


TRAINING = ("cut", "labels", "optimiser", "penalise", "batch_nopeek", "shuffle", "parallel", "together")
"""The settings that change a trained model; conditions that share them and their training chain share one training."""
FIXED = ("targets", "evaluated", "dcor_rows")
"""The settings that no variant may change, because all conditions are scored on the same images, in equal batches."""


def trainings(experiment: Experiment) -> dict[int, list[int]]:
    """The conditions of every training: the first condition of each names it."""
    found: dict[tuple[object, ...], list[int]] = {}
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


def fixed_epochs(condition: Condition) -> int:
    """Epochs after the training of a condition, in which its client segment is fixed."""
    rules = condition.settings(SplitProtocol)
    return rules.server_epochs or (rules.defence_epochs if _shreds(condition.released) else 0)


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
    _check_shredder(experiment)


def _check_shredder(experiment: Experiment) -> None:
    for condition in experiment.conditions:
        trained, served = (_shreds(chain) for chain in (condition.trained, condition.released))
        if trained:
            raise ValueError(
                "'shredder' learns its noise on a trained model: name it in 'inference_defences', not in "
                "'training_defences'"
            )
        if served and not fixed_epochs(condition):
            raise ValueError("'shredder' would add no noise: set 'protocol.defence_epochs', in which it is learnt")


def _shreds(chain: Chain) -> bool:
    return any(isinstance(defence, Shredder) and defence.scale for defence in chain.defences)


def _check_preset(experiment: Experiment, protocol: SplitProtocol) -> None:
    preset = TITCOMBE[protocol.preset]
    wanted: dict[str, tuple[object, object]] = {
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
