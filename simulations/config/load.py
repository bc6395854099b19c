"""Where an experiment's settings come from: a shipped name or a TOML file, then `key=value` changes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fl_privacy.settings import UnknownName, check_settings
from fl_privacy.simulations.config.changes import override
from fl_privacy.simulations.config.published import read_published, stands
from fl_privacy.simulations.config.resolve import channel_of, resolve
from fl_privacy.simulations.config.validate import check_objects, check_values
from fl_privacy.simulations.experiment.components import chains
from fl_privacy.simulations.experiment.spec import Experiment


def shipped() -> dict[str, Path]:
    """The experiments that come with the suite, by name."""
    folder = Path(str(files("fl_privacy.simulations"))) / "experiments"
    return {path.stem: path for path in sorted(folder.rglob("*.toml"))}


def load_experiment(source: str, changes: Sequence[str] = (), **given: Any) -> Experiment:
    """The experiment of a shipped name or a TOML file, changed by `key=value` texts and then by the `given` fields.

    Raises:
        UnknownName: no such experiment, component or setting. ValueError: not TOML, or a value that does not fit.
    """
    settings = read(source)
    if "published" in settings and not changes:
        made = configure(**settings)  # a row of one's own that stands beside nothing is a mistake
    else:
        path = shipped().get(source, Path(source))
        made = changed({"published": read_published(path.parent, path.stem), **settings}, changes)
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
    """The experiment of `settings` after `changes`, with the published rows that still stand beside something."""
    settings = override(settings, changes)
    made = configure(**{**settings, "published": []})
    published = tuple(row for row in settings.get("published", ()) if stands(row, made))
    return reconfigure(made, published=published)


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
