"""What an experiment is: names of components with their settings, frozen, and checked before anything heavy starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.catalogue import check_settings
from fl_privacy.defences import Chain, chain
from simulations import checks

Component = Mapping[str, Any]
"""A catalogue name and its settings: {'name': 'grnn', 'iterations': 500}."""


def settings_of(component: Component) -> dict[str, Any]:
    """The settings of a component, without its name."""
    return {key: value for key, value in component.items() if key != "name"}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: who shares what with whom, who attacks it, and which defences are compared.

    `defences` are the *arms*: chains that run one after another with everything else equal. `learning_rate` is the
    step by which shared gradients change the model; `batch_size` images enter one message. The adversary attacks the
    first `attacked_clients` replies of each of the `attacked_rounds`. `timeout` is a round's deadline in seconds; a
    round with fewer valid replies than `min_replies` is skipped. `show_originals` lets the figure show private images.
    `expected` holds published values that the report prints beside the measured ones.

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
    defences: tuple[tuple[Component, ...], ...] = ((),)
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
    expected: Component = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in checks.COMPONENTS:
            object.__setattr__(self, key, checks.component(key, getattr(self, key)))
        object.__setattr__(self, "defences", checks.arms(self.defences))
        for key, value in check_settings("the experiment", type(self), vars(self)).items():
            object.__setattr__(self, key, value)
        checks.check(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """An experiment from plain values, as TOML or JSON gives them; an unknown key lists the known ones."""
        settings = {"name": "unnamed", **settings}
        if "defences" in settings:
            settings["defences"] = checks.arms(settings["defences"])
        return cls(**check_settings("the experiment", cls, settings))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.of(json.loads(text))

    def to_json(self) -> str:
        """The one text of this experiment: equal experiments have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def configured_attack(self) -> Attack:
        attack: Attack = ATTACKS.configure(self.attack["name"], settings_of(self.attack))
        return attack

    @cached_property
    def chains(self) -> Sequence[Chain]:
        """The chain of every arm."""
        return tuple(chain(list(arm)) for arm in self.defences)

    @cached_property
    def arms(self) -> Sequence[str]:
        """How tables name every arm."""
        return tuple(each.label for each in self.chains)
