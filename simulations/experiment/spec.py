"""What an experiment is: plain frozen data, and the objects that `config` has made of its names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from fl_privacy.settings import check_settings
from fl_privacy.simulations.experiment.components import Component, chains, component, components, label_of

if TYPE_CHECKING:  # torch, which takes seconds to import, and plain values can be checked without
    from fl_privacy.attacks import Attack
    from fl_privacy.defences import Chain
    from fl_privacy.metrics import Metric, SetMetric
    from fl_privacy.observation import Observation

P = TypeVar("P")
COMPONENTS = ("dataset", "partition", "model")
"""The fields that hold one component."""


@dataclass(frozen=True)
class Condition:
    """One line of an experiment: the protocol's settings, the chain of training, the chain of what is attacked.

    `variant` is the label of the protocol's change, where the experiment has variants.
    """

    label: str
    protocol: object
    trained: Chain
    released: Chain
    variant: str = ""

    def settings(self, kind: type[P]) -> P:
        """The protocol's settings for the channel whose they are.

        Raises:
            TypeError: they are another channel's.
        """
        return _of_kind(self.protocol, kind)


@dataclass(frozen=True)
class Resolved:
    """The objects that an experiment's names stand for: `attacks` by label, `conditions`, the channel's `protocol`.

    `protocol` are its settings without any variant's; `metrics` are those of images, `set_metrics` those of sets, by
    name.
    """

    attacks: Mapping[str, Attack]
    conditions: tuple[Condition, ...]
    protocol: object
    metrics: Mapping[str, Metric]
    set_metrics: Mapping[str, SetMetric]

    def settings(self, kind: type[P]) -> P:
        """The protocol's settings without any variant's; raises as `Condition.settings` does."""
        return _of_kind(self.protocol, kind)


def _of_kind(protocol: object, kind: type[P]) -> P:
    if not isinstance(protocol, kind):
        raise TypeError(f"this experiment's protocol is {type(protocol).__name__}, not {kind.__name__}")
    return protocol


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: who shares what with whom, who attacks it, and which defences are compared.

    The constructor checks types alone; `config.load.configure` checks everything and looks the names up, and only what
    it returns has its `resolved` objects and its `conditions`.

    Raises:
        UnknownName: a setting that does not exist. ValueError: a value of the wrong type.
    """

    name: str
    """What the run is called; its folder is named after it."""
    channel: str = "gradient"
    """What clients share: gradient, update, activation or output."""
    seed: int = 0
    """From which every random stream of the run is drawn, each by its own name."""
    dataset: Component = field(default_factory=lambda: {"name": "digits"})
    """The private images: a registered name or `module:function`, with its settings."""
    partition: Component = field(default_factory=lambda: {"name": "iid"})
    """How the training images are dealt to the clients."""
    model: Component = field(default_factory=lambda: {"name": "lenet_dlg"})
    """The network: a registered name or `module:function`; `init` says how its weights are drawn."""
    attacks: tuple[Component, ...] = ({"name": "grnn"},)
    """Who attacks. A `label` tells two settings of one attack apart; its `conditions` keep it to some conditions; a
    `static` one does not know the defences."""
    training_defences: tuple[tuple[Component, ...], ...] = ((),)
    """Chains of defences that run one after another with everything else equal; [] is no defence."""
    inference_defences: tuple[tuple[Component, ...], ...] = ()
    """Chains under which a trained model is served: each with each of the training ones."""
    protocol: Component = field(default_factory=dict)
    """The settings that only this channel has; the tables below."""
    variants: tuple[Component, ...] = ()
    """Changes of the protocol, each with a `label`, which multiply the conditions again."""
    public: Component = field(default_factory=dict)
    """Images that the adversary owns: a data set with its `split`, `first` and `count`."""
    train_images: tuple[int, ...] = ()
    """The training images that clients hold (first, end); all of them by default."""
    clients: int = 10
    """How many clients there are."""
    clients_per_round: int = 10
    """How many of them take part in a round."""
    rounds: int = 1
    """Rounds of training, or of questions on the output channel."""
    batch_size: int = 1
    """Images that enter one message: that a client trains on in a round."""
    attacked_batch_size: int = 0
    """Images of each message of the attacked rounds, of gradients and updates; 0: `batch_size`, as in all others."""
    learning_rate: float = 0.1
    """The step by which shared gradients or local training change the model."""
    attacked_rounds: tuple[int, ...] = (1,)
    """The rounds whose messages are attacked."""
    attacked_clients: int = 1
    """How many replies of each of these rounds are attacked: the first ones."""
    min_replies: int = 1
    """A round with fewer valid replies is skipped."""
    timeout: float = 600.0
    """A round's deadline in seconds."""
    device: str = "cpu"
    """Where clients, split servers, joint training and attacks compute: cpu or cuda."""
    metrics: tuple[Component, ...] = ()
    """Metrics beside those that every table has: one of sets, or your own `module:function` or `module:Class`."""
    bound: bool = False
    """Whether rows of gradients, or updates of one step, tell what could be known at best: bound (dB), linearised."""
    show_originals: bool = False
    """Whether figures may show private images."""
    published: tuple[Component, ...] = ()
    """Rows of published values, joined to measured ones by variant, defences and attack."""

    def __post_init__(self) -> None:
        for key in COMPONENTS:
            object.__setattr__(self, key, component(key, getattr(self, key)))
        object.__setattr__(self, "public", component("public", self.public) if self.public else {})
        object.__setattr__(self, "attacks", components("attacks", self.attacks))
        object.__setattr__(self, "training_defences", chains("training_defences", self.training_defences))
        object.__setattr__(self, "metrics", components("metrics", self.metrics) if self.metrics else ())
        serving = chains("inference_defences", self.inference_defences) if self.inference_defences else ()
        object.__setattr__(self, "inference_defences", serving)
        for key, value in check_settings("the experiment", type(self), dict(vars(self))).items():
            object.__setattr__(self, key, value)

    def to_json(self) -> str:
        """The one text of this experiment: equal experiments have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.to_json())

    @property
    def attacked_images(self) -> int:
        """How many images enter one message that is attacked."""
        return self.attacked_batch_size or self.batch_size

    def images_in(self, round: int) -> int:
        """How many images enter one message of a round."""
        return self.attacked_images if round in self.attacked_rounds else self.batch_size

    @property
    def resolved(self) -> Resolved:
        """The objects that `config.load.configure` has looked up.

        Raises:
            RuntimeError: this experiment was made by hand, and nobody has looked its names up.
        """
        found: Resolved | None = self.__dict__.get("_resolved")
        if found is None:
            raise RuntimeError("an Experiment made by hand is plain data: make it by load_experiment or configure")
        return found

    def bind(self, resolved: Resolved) -> None:
        """Keep the objects of this experiment's names; for `config` alone."""
        object.__setattr__(self, "_resolved", resolved)

    @property
    def conditions(self) -> Sequence[Condition]:
        """Every variant of the protocol with every training defence and every serving one, in this order."""
        return self.resolved.conditions

    @property
    def chains(self) -> Sequence[Chain]:
        """The chain under which each condition releases what the adversary attacks."""
        return tuple(condition.released for condition in self.conditions)

    @property
    def condition_labels(self) -> Sequence[str]:
        """How tables name every condition."""
        return tuple(condition.label for condition in self.conditions)

    def held_by(self, attack: str, seen: Observation) -> Observation:
        """The observation as the attack of this label has it: without the defences where it is `static`."""
        chosen = next((each for each in self.attacks if label_of(each) == attack), {})
        return replace(seen, defence=None) if chosen.get("static") else seen

    def concerns(self, attack: str, condition: int) -> bool:
        """Whether the attack of this label attacks this condition: all of them, unless it is kept to some."""
        chosen = next(each for each in self.attacks if label_of(each) == attack).get("conditions")
        label = self.condition_labels[condition]
        return not chosen or any(label == each or label.startswith(f"{each}; ") for each in chosen)
