"""Changes of an experiment's settings, as `key=value` texts."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Sequence

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.experiment.components import component
from fl_privacy.simulations.experiment.spec import COMPONENTS, Experiment


def override(settings: ReadTable, changes: Sequence[str]) -> PlainTable:
    """`settings` after `key=value` texts: dotted keys, values as TOML writes them, anything else as plain text.

    `model=NAME` (dataset, partition likewise) chooses another component with its own defaults; the name it already has
    keeps its settings. `attack=NAME` stands for attacks=[NAME], `defence=NAME` for training_defences=[[], [NAME]].

    Raises:
        ValueError: a text without '=', or a part of something that has none.
    """
    changed = dict(settings)
    for text in changes:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a change is written key=value, such as attack.iterations=500, not '{text}'")
        changed = change(changed, key, parse_value(value))
    return changed


def change(settings: ReadTable, address: str, value: object) -> PlainTable:
    """`settings` with another value at an address, in the words of `override`; raises as it does."""
    changed = copy.deepcopy(dict(settings))
    head, *rest = address.strip().split(".")
    if not all([head, *rest]):
        raise ValueError(f"a change is written key=value, such as attack.iterations=500, and '{address}' is no key")
    apply = {"attack": _change_attack, "defence": _change_defence}.get(head, _change)
    apply(changed, head, rest, value)
    return changed


def parse_value(text: str) -> object:
    """A TOML value (500, 0.1, true, "text", [1, 2], {name = "x"}); anything that is not TOML is the text itself.

    TOML has digits on both sides of a decimal point; `.5` and `5.` are numbers here all the same.
    """
    if re.fullmatch(r"\s*[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?\s*", text, re.IGNORECASE | re.ASCII):
        return float(text)
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _change(settings: PlainTable, head: str, rest: list[str], value: object) -> None:
    if not rest:
        same = head in COMPONENTS and isinstance(value, str) and _name(settings.get(head)) == value
        if not same:
            settings[head] = value
        return
    if head in COMPONENTS:
        default = getattr(Experiment(name="defaults"), head)
        settings[head] = component(head, settings.get(head, default))
    part = settings.setdefault(head, {})
    if not isinstance(part, dict) or len(rest) > 1:
        raise ValueError(f"'{'.'.join([head, *rest])}' is no setting: '{head}' has no such part")
    part[rest[0]] = value


def _name(value: object) -> object:
    return value.get("name") if isinstance(value, dict) else value


def _change_attack(settings: PlainTable, head: str, rest: list[str], value: object) -> None:
    """`attack=NAME` leaves that one, with the settings it has there; `attack.KEY` changes the first."""
    attacks = [component("attacks", each) for each in settings.get("attacks", Experiment(name="defaults").attacks)]
    if not rest:
        same = [each for each in attacks[:1] if each["name"] == value]
        settings["attacks"] = same or [component(head, value)]
        return
    if len(rest) > 1:
        raise ValueError(f"'{'.'.join([head, *rest])}' is no setting: an attack has no such part")
    settings["attacks"] = [{**attacks[0], rest[0]: value}, *attacks[1:]]


def _change_defence(settings: PlainTable, head: str, rest: list[str], value: object) -> None:
    if not rest:
        settings["training_defences"] = [[]] if value == "none" else [[], [component(head, value)]]
        return
    defended = [each for each in settings.get("training_defences", []) if each]
    if len(defended) != 1 or len(defended[0]) != 1:
        raise ValueError(
            f"'defence.{'.'.join(rest)}' changes an experiment's one defence, and this one has "
            f"{sum(map(len, defended))}: choose one first (defence=gaussian_noise), or write them all "
            '(training_defences=[[], [{name="gaussian_noise", scale=0.1}]])'
        )
    defended[0][0] = component("training_defences", defended[0][0])
    defended[0][0][".".join(rest)] = value
