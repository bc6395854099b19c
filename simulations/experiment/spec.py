"""What an experiment is: names of components with their settings, frozen, and checked before anything heavy starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.defences import Chain, chain
from fl_privacy.registry import check_settings
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.config import validate as checks

Component = Mapping[str, Any]
"""A registry name and its settings: {'name': 'grnn', 'iterations': 500}."""


def settings_of(component: Component) -> dict[str, Any]:
    """The settings of a component, without its name."""
    return {key: value for key, value in component.items() if key != "name"}


@dataclass(frozen=True)
class Condition:
    """One line of an experiment: the protocol's settings, the chain of training, the chain of what is attacked."""

    label: str
    rules: Any
    trained: Chain
    released: Chain


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: who shares what with whom, who attacks it, and which defences are compared.

    `defences` are chains that run one after another with everything else equal. Each is an *condition*; where
    `serving` has chains too, what was trained under a defence is served under each of those, and every pair is a
    condition. `protocol` holds what only this channel knows; `variants` are changes of it, each with a `label`, and
    multiply the conditions again. `learning_rate` is the step by which shared gradients change the model;
    `batch_size` images enter one message. The clients hold the training images of `train_images` (first, end; all of
    them by default), and the adversary may own the `public` ones: a data set with its `split`, `first` and `count`.

    `attack`, and the attacks of `also`, see the first `attacked_clients` replies of each of the `attacked_rounds`; a
    `label` tells two settings of one attack apart, and `only` lists the conditions, or variants, that it is kept to.
    `timeout` is a round's deadline in seconds; a round with fewer valid replies than `min_replies` is skipped.
    `show_originals` lets the figure show private images. `expected` holds rows of published values, each with the
    `defence` (and `attack`) beside whose measured ones the report prints them.

    Raises:
        UnknownName: a component or a setting that does not exist. ValueError: a value that does not fit.
    """

    name: str
    channel: str = "gradient"
    seed: int = 0
    dataset: Component = field(default_factory=lambda: {"name": "digits"})
    partition: Component = field(default_factory=lambda: {"name": "iid"})
    model: Component = field(default_factory=lambda: {"name": "lenet_dlg"})
    attack: Component = field(default_factory=lambda: {"name": "grnn"})
    also: tuple[Component, ...] = ()
    defences: tuple[tuple[Component, ...], ...] = ((),)
    serving: tuple[tuple[Component, ...], ...] = ()
    protocol: Component = field(default_factory=dict)
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
    expected: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        for key in checks.COMPONENTS:
            object.__setattr__(self, key, checks.component(key, getattr(self, key)))
        object.__setattr__(self, "public", checks.component("public", self.public) if self.public else {})
        object.__setattr__(self, "also", tuple(checks.component("also", each) for each in self.also))
        object.__setattr__(self, "defences", checks.chains("defences", self.defences))
        object.__setattr__(self, "serving", checks.chains("serving", self.serving) if self.serving else ())
        for key, value in check_settings("the experiment", type(self), vars(self)).items():
            object.__setattr__(self, key, value)
        checks.check(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """An experiment from plain values, as TOML or JSON gives them; an unknown key lists the known ones."""
        settings = {"name": "unnamed", **settings}
        for key in ("defences", "serving"):
            if settings.get(key):
                settings[key] = checks.chains(key, settings[key])
        return cls(**check_settings("the experiment", cls, settings))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.of(json.loads(text))

    def to_json(self) -> str:
        """The one text of this experiment: equal experiments have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.to_json())

    @cached_property
    def attacks(self) -> Mapping[str, Attack]:
        """The attacks by label."""
        return {label_of(each): _attack(each) for each in (self.attack, *self.also)}

    def concerns(self, attack: str, condition: int) -> bool:
        """Whether the attack of this label attacks this condition: all of them, unless it is kept to some."""
        chosen = next(each for each in (self.attack, *self.also) if label_of(each) == attack)
        label = self.condition_labels[condition]
        return not chosen.get("only") or any(label == each or label.startswith(f"{each}; ") for each in chosen["only"])

    @cached_property
    def conditions(self) -> Sequence[Condition]:
        """Every variant of the protocol with every training defence and every serving one, in this order.

        A label says what tells the conditions apart: one empty training chain for all of them is left out of it.
        """
        made = []
        for variant in self.variants or ({},):
            rules = configured_protocol(self.channel, {**self.protocol, **_unlabelled(variant)})
            for trained in map(_chain, self.defences):
                for released in map(_chain, self.serving) if self.serving else (trained,):
                    names = [str(variant["label"])] if variant else []
                    names += [trained.label] if self.defences != ((),) else []
                    names += [f"serving {released.label}"] if self.serving else []
                    made.append(Condition("; ".join(names) or trained.label, rules, trained, released))
        return tuple(made)

    @cached_property
    def rules(self) -> Any:
        """The settings of the channel's protocol, without any variant's."""
        return configured_protocol(self.channel, self.protocol)

    @cached_property
    def chains(self) -> Sequence[Chain]:
        """The chain under which each condition releases what the adversary attacks."""
        return tuple(condition.released for condition in self.conditions)

    @cached_property
    def condition_labels(self) -> Sequence[str]:
        """How tables name every condition."""
        return tuple(condition.label for condition in self.conditions)


def label_of(attack: Component) -> str:
    """How tables name an attack: its label, or else its name."""
    return str(attack.get("label", attack["name"]))


def _chain(components: Sequence[Component]) -> Chain:
    return chain(list(components))


def _attack(component: Component) -> Attack:
    settings = {key: value for key, value in settings_of(component).items() if key not in ("label", "only")}
    attack: Attack = ATTACKS.configure(component["name"], settings)
    return attack


def _unlabelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "label"}


def configured_protocol(channel: str, settings: Mapping[str, Any]) -> Any:
    """The checked settings of a channel's protocol."""
    kind = CHANNELS[channel]
    return kind.protocol(**check_settings(f"the protocol of the {channel} channel", kind.protocol, settings))
