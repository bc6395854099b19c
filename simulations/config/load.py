"""Where an experiment's settings come from: a shipped name or a TOML file, then `key=value` changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.changes import override
from fl_privacy.simulations.config.early import plain
from fl_privacy.simulations.config.files import read
from fl_privacy.simulations.config.published import read_published, stands
from fl_privacy.simulations.config.resolve import channel_of, resolve
from fl_privacy.simulations.config.validate import check_objects, check_values
from fl_privacy.simulations.experiment.spec import Experiment


def load_experiment(
    source: str, changes: Sequence[str] = (), *, profile: str | None = None, **given: Any
) -> Experiment:
    """The experiment of a shipped name or a TOML file, changed by `key=value` texts and then by the `given` fields.

        load_experiment("vicious_table1/mnist", ["attacked_clients=2"], profile="full", seed=1)

    `config.files` says what an address and a profile are. Published values come from the published.csv beside the file,
    unless the file or a change has rows of its own.

    Raises:
        UnknownName: no such experiment, profile, component or setting. ValueError: not TOML, or a value that does not
            fit.
    """
    chosen = read(source, profile)
    if "published" in chosen.settings and not changes:
        made = configure(**chosen.settings)  # a row of one's own that stands beside nothing is a mistake
    else:
        published = read_published(chosen.path.parent, chosen.address, chosen.profile)
        made = changed({"published": published, **chosen.settings}, changes)
    given = {key: value for key, value in given.items() if value is not None}
    return reconfigure(made, **given) if given else made


def configure(**settings: Any) -> Experiment:
    """The experiment of these plain settings, as TOML or JSON gives them, checked and with its names looked up.

    Raises:
        UnknownName: a component or a setting that does not exist; the message lists those that do. ValueError: a value
            that does not fit.
    """
    return _configured(plain(settings))


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


def changed(settings: ReadTable, changes: Sequence[str]) -> Experiment:
    """The experiment of `settings` after `changes`, with the published rows that still stand beside something."""
    settings = override(settings, changes)
    made = configure(**{**settings, "published": []})
    published = tuple(row for row in settings.get("published", ()) if stands(row, made))
    return reconfigure(made, published=published)
