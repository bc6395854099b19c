"""The checks of an experiment: every name, every value, and what must fit together; messages say what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.data import DATASETS, PARTITIONS
from fl_privacy.data.base import keyword_settings
from fl_privacy.defences import chain
from fl_privacy.models import MODELS
from fl_privacy.settings import PlainTable, ReadTable, check_settings
from fl_privacy.simulations.config.early import check_numbers
from fl_privacy.simulations.config.published import check_row, stands
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.components import Component, label_of, settings_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import SLICE
from fl_privacy.simulations.results.files import slug


def check_values(experiment: Experiment) -> None:
    """Check what needs no object: numbers, tables, names of components and of their settings.

    Raises:
        UnknownName: a component or a setting that does not exist. ValueError: a value that does not fit.
    """
    check_numbers(experiment)
    _check_components(experiment)
    tables = (experiment.protocol, *experiment.variants, *experiment.published)
    if not all(isinstance(table, Mapping) for table in tables):
        raise ValueError("'protocol' takes a table, 'variants' and 'published' a list of tables")
    if any("label" not in variant for variant in experiment.variants):
        raise ValueError("every one of the 'variants' needs a 'label', by which tables name it")
    labels = [str(variant["label"]) for variant in experiment.variants]
    _check_unique("variants", "label", labels)
    _check_labels("variants", labels)


def check_objects(experiment: Experiment) -> None:
    """Check what must fit together in a resolved experiment.

    Raises:
        ValueError: what does not.
    """
    channel_of(experiment).rounds.check(experiment)
    _check_defences(experiment)
    _check_attacks(experiment)
    _check_published(experiment)


def _check_components(experiment: Experiment) -> None:
    for kind, registry, chosen in (
        ("data set", DATASETS, experiment.dataset),
        ("partition", PARTITIONS, experiment.partition),
    ):
        name, settings = _split(chosen)
        keyword_settings(f"{kind} '{name}'", registry[name], settings)
    name, settings = _split(experiment.model)
    settings.pop("init", None)
    check_settings(f"model '{name}'", MODELS[name], settings)
    _check_public(experiment.public)
    for key in ("training_defences", "inference_defences"):
        _check_unique(key, "chain", [chain(list(each)).label for each in getattr(experiment, key)])


def _check_public(public: ReadTable) -> None:
    if public:
        name, settings = _split(public)
        keyword_settings(f"data set '{name}'", DATASETS[name], {k: v for k, v in settings.items() if k not in SLICE})
        if settings.get("split", "train") not in ("train", "test"):
            raise ValueError(f"'public.split' takes train or test, not {settings['split']!r}")


def _check_unique(key: str, what: str, labels: Sequence[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"'{key}' has the same {what} twice: {', '.join(twice)}")


def _check_labels(key: str, labels: Sequence[str]) -> None:
    """Labels become folder names: those that differ only where a folder cannot would share one."""
    folders: dict[str, str] = {}
    for label in labels:
        folder = slug(label).casefold()  # some file systems take upper and lower case for the same
        if (other := folders.setdefault(folder, label)) != label:
            raise ValueError(
                f"'{key}': the labels {other!r} and {label!r} both become the folder '{folder}', where one would show "
                "the other's numbers: choose labels that differ in letters or digits, not only in spaces, signs or case"
            )


def _check_defences(experiment: Experiment) -> None:
    if channel_of(experiment).rounds.examples_have_gradients:
        return
    for condition in experiment.conditions:
        for each in (condition.trained, condition.released):
            if each.in_training:
                raise ValueError(
                    f"'{each.label}' acts where clients compute gradients, on the channels gradient and update, and "
                    f"this experiment's channel is {experiment.channel}: it would do nothing"
                )


def _check_attacks(experiment: Experiment) -> None:
    labels = [label_of(each) for each in experiment.attacks]
    _check_unique("attacks", "attack (give one of them a 'label')", labels)
    _check_labels("attacks", labels)
    for each, (label, attack) in zip(experiment.attacks, experiment.resolved.attacks.items(), strict=True):
        _check_kept_to(experiment, each.get("conditions", []))
        if not isinstance(each.get("static", False), bool):
            raise ValueError(f"'static' of the attack '{label}' takes true or false, not {each['static']!r}")
        _check_attack(experiment, each["name"], label, attack)


def _check_attack(experiment: Experiment, name: str, label: str, attack: Attack) -> None:
    if experiment.channel not in attack.channels:
        fitting = [each for each in ATTACKS if experiment.channel in ATTACKS[each].channels]
        raise ValueError(
            f"the attack '{name}' reads {', '.join(sorted(attack.channels))} messages, and the channel of this "
            f"experiment is {experiment.channel}. Attacks for it: {', '.join(fitting) or 'none'}."
        )
    for condition in range(len(experiment.condition_labels)):
        granted = channel_of(experiment).adversary.knowledge(experiment, condition)
        withheld = sorted(attack.needs - granted)
        if withheld and experiment.concerns(label, condition):
            raise ValueError(
                f"the attack '{name}' needs the observation's {', '.join(withheld)}; the adversary holds "
                f"{', '.join(sorted(granted))} in '{experiment.condition_labels[condition]}'. 'conditions' "
                "keeps an attack to some of them."
            )


def _check_kept_to(experiment: Experiment, conditions: object) -> None:
    if not isinstance(conditions, list | tuple):
        raise ValueError(f"'conditions' of an attack takes a list of conditions or variants, not {conditions!r}")
    for name in conditions:
        known = experiment.condition_labels
        if not any(condition == name or condition.startswith(f"{name}; ") for condition in known):
            raise ValueError(
                f"'conditions' of an attack names {name!r}, and the conditions are: {', '.join(map(repr, known))}"
            )


def _check_published(experiment: Experiment) -> None:
    for row in experiment.published:
        check_row(row)
        if not stands(row, experiment):
            raise ValueError(
                f"a row of 'published', {dict(row)}, stands beside no measured row. The conditions are "
                f"{', '.join(map(repr, experiment.condition_labels))}, the attacks "
                f"{', '.join(map(repr, experiment.resolved.attacks))}."
            )


def _split(chosen: Component) -> tuple[str, PlainTable]:
    return chosen["name"], settings_of(chosen)
