"""From an experiment's names to its objects: attacks, defences, the channel and its protocol."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.defences import Chain, chain
from fl_privacy.metrics import METRICS, SET_METRICS, Metric, SetMetric
from fl_privacy.settings import PlainTable, ReadTable, check_settings, no_such
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.channels.base import Channel, Evaluation
from fl_privacy.simulations.config.early import BESIDE, check_channel
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
    attacks = {label_of(each): attack_of(each) for each in experiment.attacks}
    return Resolved(attacks, _conditions(experiment), _protocol(experiment, experiment.protocol), *_metrics(experiment))


def _metrics(experiment: Experiment) -> tuple[dict[str, Metric], dict[str, SetMetric]]:
    """The metrics of images and of sets: those that every table of the channel has, and those that are asked for."""
    evaluation = channel_of(experiment).evaluation
    of_images = METRICS.usable()
    of_sets = {name: SET_METRICS[name] for name in evaluation.set_metrics}
    asked = [each["name"] for each in experiment.metrics]
    if len(set(asked)) < len(asked):
        raise ValueError(f"'metrics' names one twice: {', '.join(asked)}. Their names are their columns")
    for chosen in experiment.metrics:
        name = chosen["name"]
        if SET_METRICS.facts(name).get("in_every_row"):
            continue
        if name in SET_METRICS:
            _check_needs(name, evaluation)
            of_sets[name] = SET_METRICS[name]
        elif name in METRICS or ":" in name:
            metric = _metric(chosen)
            if _takes_a_set(metric):
                of_sets[name] = metric
            else:
                of_images[name] = metric
        else:
            raise no_such("metric", name, sorted({*METRICS, *SET_METRICS}))
    return of_images, of_sets


def _check_needs(name: str, evaluation: Evaluation) -> None:
    needs = frozenset(SET_METRICS.facts(name).get("needs", ()))
    if missing := needs - evaluation.provides:
        raise ValueError(
            f"the metric '{name}' needs {' and '.join(sorted(missing))}, which the evaluator of this channel does not "
            "have: leave it out of 'metrics'"
        )


def _metric(chosen: Component) -> Any:
    """A function as it is, an object of a class with its settings."""
    name, settings = chosen["name"], settings_of(chosen)
    entry: Any = METRICS[name]
    if isinstance(entry, type) and dataclasses.is_dataclass(entry):
        entry = METRICS.configure(name, settings)
    elif settings:
        raise ValueError(f"the metric '{name}' has no settings, because it is no dataclass, and gets {settings}")
    elif isinstance(entry, type):
        entry = entry()
    if not callable(entry):
        raise ValueError(f"the metric '{name}' cannot be called: a function, or a class with __call__(guess, truth)")
    return entry


def _takes_a_set(metric: Callable[..., Any]) -> bool:
    """Whether one argument is all that it wants, a `MatchedSet`, where a metric of images takes guess and truth."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):  # something built in
        return False
    return sum(each.default is each.empty and each.kind < each.VAR_POSITIONAL for each in parameters) == 1


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


def attack_of(component: Component) -> Attack:
    """The attack that a component names, with its settings.

    Raises:
        UnknownName: no such attack or setting. ValueError: a value that does not fit.
    """
    settings = {key: value for key, value in settings_of(component).items() if key not in BESIDE["ATTACKS"]}
    attack: object = ATTACKS.configure(component["name"], settings)
    if not isinstance(attack, Attack):
        raise ValueError(f"'{component['name']}' is no attack: let its class derive from fl_privacy.Attack")
    return attack


def attacks_of(channel: str) -> list[str]:
    """The names of all attacks on a channel, without those that only carry out a paper as it was published."""
    found = ATTACKS.usable().items()
    return [name for name, each in found if channel in each.channels and not name.endswith("_as_published")]


def _unlabelled(settings: ReadTable) -> PlainTable:
    return {key: value for key, value in settings.items() if key != "label"}


def _protocol(experiment: Experiment, settings: ReadTable) -> Any:
    """The checked settings of the channel's protocol."""
    protocol = channel_of(experiment).protocol
    return protocol(**check_settings(f"the protocol of the {experiment.channel} channel", protocol, settings))
