"""What an experiment is: plain frozen data, and the objects that `config` has made of its names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

from fl_privacy.settings import check_settings
from fl_privacy.simulations.experiment.components import Component, chains, component, components, label_of

if TYPE_CHECKING:  # torch, which takes seconds to import, and plain values can be checked without
    from fl_privacy.attacks import Attack
    from fl_privacy.defences import Chain
    from fl_privacy.metrics import Metric

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

    `protocol` are its settings without any variant's; `metrics` by name.
    """

    attacks: Mapping[str, Attack]
    conditions: tuple[Condition, ...]
    protocol: object
    metrics: Mapping[str, Metric]

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

    `training_defences` are chains that run one after another with everything else equal. Each is a *condition*; where
    `inference_defences` has chains too, what was trained under a defence is served under each of those, and every pair
    is a condition. `protocol` holds what only this channel knows; `variants` are changes of it, each with a `label`,
    and multiply the conditions again. `learning_rate` is the step by which shared gradients change the model;
    `batch_size` images enter one message. The clients hold the training images of `train_images` (first, end; all of
    them by default), and the adversary may own the `public` ones: a data set with its `split`, `first` and `count`.

    The `attacks` see the first `attacked_clients` replies of each of the `attacked_rounds`; a `label` tells two
    settings of one attack apart, and its `conditions` list the conditions, or variants, that it is kept to.
    Images are measured by every registered metric, and by those of the `metrics` that are named as module:function.
    `timeout` is a round's deadline in seconds; a round with fewer valid replies than `min_replies` is skipped.
    `show_originals` lets the figure show private images. `published` holds rows of published values; the report prints
    each beside the measured ones of its `variant`, `training_defence`, `inference_defence` and `attack`.

    The constructor checks types alone; `config.load.configure` checks everything and looks the names up, and only what
    it returns has its `resolved` objects and its `conditions`.

    Raises:
        UnknownName: a setting that does not exist. ValueError: a value of the wrong type.
    """

    name: str
    channel: str = "gradient"
    seed: int = 0
    dataset: Component = field(default_factory=lambda: {"name": "digits"})
    partition: Component = field(default_factory=lambda: {"name": "iid"})
    model: Component = field(default_factory=lambda: {"name": "lenet_dlg"})
    attacks: tuple[Component, ...] = ({"name": "grnn"},)
    training_defences: tuple[tuple[Component, ...], ...] = ((),)
    inference_defences: tuple[tuple[Component, ...], ...] = ()
    protocol: Component = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    variants: tuple[Component, ...] = ()
    public: Component = field(default_factory=dict)
    train_images: tuple[int, ...] = ()
    clients: int = 10
    clients_per_round: int = 10
    rounds: int = 1
    batch_size: int = 1
    learning_rate: float = 0.1
    attacked_rounds: tuple[int, ...] = (1,)
    attacked_clients: int = 1
    min_replies: int = 1
    timeout: float = 600.0
    device: str = "cpu"
    show_originals: bool = False
    published: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        for key in COMPONENTS:
            object.__setattr__(self, key, component(key, getattr(self, key)))
        object.__setattr__(self, "public", component("public", self.public) if self.public else {})
        object.__setattr__(self, "attacks", components("attacks", self.attacks))
        object.__setattr__(self, "training_defences", chains("training_defences", self.training_defences))
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

    def concerns(self, attack: str, condition: int) -> bool:
        """Whether the attack of this label attacks this condition: all of them, unless it is kept to some."""
        chosen = next(each for each in self.attacks if label_of(each) == attack).get("conditions")
        label = self.condition_labels[condition]
        return not chosen or any(label == each or label.startswith(f"{each}; ") for each in chosen)
