"""Where an experiment's settings come from: a shipped name or a TOML file, then `key=value` changes."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fl_privacy.settings import UnknownName, check_settings
from fl_privacy.simulations.config.resolve import channel_of, resolve
from fl_privacy.simulations.config.validate import check_objects, check_values
from fl_privacy.simulations.experiment.components import chains, component
from fl_privacy.simulations.experiment.spec import COMPONENTS, Experiment


def shipped() -> dict[str, Path]:
    """The experiments that come with the suite, by name."""
    folder = Path(str(files("fl_privacy.simulations"))) / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_experiment(source: str, changes: Sequence[str] = (), **given: Any) -> Experiment:
    """The experiment of a shipped name or a TOML file, changed by `key=value` texts and then by the `given` fields.

    Raises:
        UnknownName: no such experiment, component or setting. ValueError: not TOML, or a value that does not fit.
    """
    made = changed(read(source), changes)
    given = {key: value for key, value in given.items() if value is not None}
    return reconfigure(made, **given) if given else made


def configure(**settings: Any) -> Experiment:
    """The experiment of these plain settings, as TOML or JSON gives them, checked and with its names looked up.

    Raises:
        UnknownName: a component or a setting that does not exist; the message lists those that do. ValueError: a value
            that does not fit.
    """
    settings = {"name": "unnamed", **settings}
    if "attack" in settings:
        settings["attacks"] = [settings.pop("attack")]
    for key in ("training_defences", "inference_defences"):
        if settings.get(key):
            settings[key] = chains(key, settings[key])
    return _configured(Experiment(**check_settings("the experiment", Experiment, settings)))


def reconfigure(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with other values in some of its fields; raises as `configure` does."""
    return _configured(replace(experiment, **changes))


def from_json(text: str) -> Experiment:
    """The experiment whose `to_json` this is; raises as `configure` does."""
    return configure(**json.loads(text))


def _configured(experiment: Experiment) -> Experiment:
    channel_of(experiment)
    check_values(experiment)
    experiment.bind(resolve(experiment))
    check_objects(experiment)
    return experiment


def changed(settings: Mapping[str, Any], changes: Sequence[str]) -> Experiment:
    """The experiment of `settings` after `changes`, which may take away conditions and attacks of published rows."""
    if not changes:
        return configure(**settings)
    settings = override(settings, changes)
    made = configure(**{**settings, "published": []})
    published = [row for row in settings.get("published", []) if row.get("defence") in made.condition_labels]
    attacks = made.resolved.attacks
    published = [row for row in published if row.get("attack", next(iter(attacks))) in attacks]
    return reconfigure(made, published=tuple(published))


def read(source: str) -> dict[str, Any]:
    """The settings in a shipped experiment or a TOML file; the name defaults to the file's."""
    known = shipped()
    path = known.get(source, Path(source))
    if not path.is_file():
        raise UnknownName(
            f"no experiment is called '{source}', and it is no file. Known: {', '.join(known)}; "
            "or give the path of a TOML file."
        )
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    if "attack" in settings:
        settings["attacks"] = [settings.pop("attack")]
    return {"name": path.stem, **settings}


def override(settings: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`settings` after `key=value` texts: dotted keys, values as TOML writes them, anything else as plain text.

    `model=NAME` (dataset, partition likewise) chooses another component with its own defaults; the name it already has
    keeps its settings. `attack=NAME` stands for attacks=[NAME], `defence=NAME` for training_defences=[[], [NAME]].

    Raises:
        ValueError: a text without '=', or a part of something that has none.
    """
    changed = copy.deepcopy(dict(settings))
    for text in changes:
        key, equals, value = text.partition("=")
        head, *rest = key.strip().split(".")
        if not equals or not head or not all([head, *rest]):
            raise ValueError(f"a change is written key=value, such as attack.iterations=500, not '{text}'")
        apply = {"attack": _change_attack, "defence": _change_defence}.get(head, _change)
        apply(changed, head, rest, parse_value(value))
    return changed


def parse_value(text: str) -> Any:
    """A TOML value (500, 0.1, true, "text", [1, 2], {name = "x"}); anything that is not TOML is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _change(settings: dict[str, Any], head: str, rest: list[str], value: Any) -> None:
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


def _change_attack(settings: dict[str, Any], head: str, rest: list[str], value: Any) -> None:
    """`attack=NAME` leaves that one, with the settings it has there; `attack.KEY` changes the first."""
    attacks = [component("attacks", each) for each in settings.get("attacks", Experiment(name="defaults").attacks)]
    if not rest:
        same = [each for each in attacks[:1] if each["name"] == value]
        settings["attacks"] = same or [component(head, value)]
        return
    if len(rest) > 1:
        raise ValueError(f"'{'.'.join([head, *rest])}' is no setting: an attack has no such part")
    settings["attacks"] = [{**attacks[0], rest[0]: value}, *attacks[1:]]


def _change_defence(settings: dict[str, Any], head: str, rest: list[str], value: Any) -> None:
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
