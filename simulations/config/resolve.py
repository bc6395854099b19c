"""From an experiment's names to its objects: attacks, defences, the channel and its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.defences import Chain, chain
from fl_privacy.metrics import METRICS
from fl_privacy.settings import check_settings
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.config.early import check_channel
from fl_privacy.simulations.experiment.components import Component, label_of, settings_of
from fl_privacy.simulations.experiment.spec import Condition, Experiment, Resolved


def channel_of(experiment: Experiment) -> Channel:
    """The channel that an experiment names.

    Raises:
        UnknownName: there is none of that name.
    """
    check_channel(experiment.channel, sorted(CHANNELS))
    return CHANNELS[experiment.channel]


def resolve(experiment: Experiment) -> Resolved:
    """The objects of an experiment's names.

    Raises:
        UnknownName: a component or a setting that does not exist. ValueError: a value that does not fit.
    """
    attacks = {label_of(each): _attack(each) for each in experiment.attacks}
    metrics = METRICS.usable() | {name: METRICS[name] for name in experiment.metrics}
    return Resolved(attacks, _conditions(experiment), _protocol(experiment, experiment.protocol), metrics)


def _conditions(experiment: Experiment) -> tuple[Condition, ...]:
    """Every variant of the protocol with every training defence and every serving one, in this order.

    A label says what tells the conditions apart: one empty training chain for all of them is left out of it.
    """
    made = []
    for variant in experiment.variants or ({},):
        protocol = _protocol(experiment, {**experiment.protocol, **_unlabelled(variant)})
        for trained in map(_chain, experiment.training_defences):
            for released in [_chain(each) for each in experiment.inference_defences] or [trained]:
                names = [str(variant["label"])] if variant else []
                names += [trained.label] if experiment.training_defences != ((),) else []
                names += [f"serving {released.label}"] if experiment.inference_defences else []
                label = "; ".join(names) or trained.label
                made.append(Condition(label, protocol, trained, released, str(variant.get("label", ""))))
    return tuple(made)


def _chain(components: Sequence[Component]) -> Chain:
    return chain(list(components))


def _attack(component: Component) -> Attack:
    settings = {key: value for key, value in settings_of(component).items() if key not in ("label", "conditions")}
    attack: object = ATTACKS.configure(component["name"], settings)
    if not isinstance(attack, Attack):
        raise ValueError(f"'{component['name']}' is no attack: let its class derive from fl_privacy.Attack")
    return attack


def _unlabelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "label"}


def _protocol(experiment: Experiment, settings: Mapping[str, Any]) -> Any:
    """The checked settings of the channel's protocol."""
    protocol = channel_of(experiment).protocol
    return protocol(**check_settings(f"the protocol of the {experiment.channel} channel", protocol, settings))
