"""What can be told of an experiment before torch is imported: its plain values, the names that it chooses."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl_privacy.registry import plug_ins
from fl_privacy.settings import ReadTable, UnknownName, check_settings, no_such
from fl_privacy.simulations.config.changes import override
from fl_privacy.simulations.config.files import read
from fl_privacy.simulations.config.names import registered, settings_of
from fl_privacy.simulations.experiment.components import Component, chains
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.results.layout import CONFIG, RESULTS

BACKENDS = ("ray", "local")
LISTED = ("channels", "attacks", "defences", "metrics", "models", "datasets", "partitions", "experiments")
CHANNELS = ("activation", "gradient", "output", "update")
DEVICES = ("cpu", "cuda", "auto")
POSITIVE = ("clients", "clients_per_round", "rounds", "batch_size", "attacked_clients", "min_replies")
AT_MOST = (
    ("clients_per_round", "clients"),
    ("attacked_clients", "clients_per_round"),
    ("min_replies", "clients_per_round"),
)
KINDS = {
    "DATASETS": "data set",
    "PARTITIONS": "partition",
    "MODELS": "model",
    "ATTACKS": "attack",
    "DEFENCES": "defence",
}
BESIDE = {
    "DATASETS": ("split", "first", "count"),  # of public images
    "MODELS": ("init",),
    "ATTACKS": ("label", "conditions", "static"),
}
"""What a component may say beside the settings of what it names."""


def check_early(source: str, changes: Sequence[str] = (), profile: str | None = None, **given: Any) -> None:
    """Check what needs neither torch nor Flower: the file, the changes, plain values, names and their settings' names.

    The arguments are those of `config.load.load_experiment`. What passes may still be wrong; what fails here would fail
    there too.

    Raises:
        UnknownName: no such experiment, profile, component or setting. ValueError: a value that does not fit.
    """
    chosen = read(source, profile)
    experiment = plain({**override(chosen.settings, changes), "published": ()})
    experiment = replace(experiment, **{key: value for key, value in given.items() if value is not None})
    check_numbers(experiment)
    check_names(experiment)


def check_attack_early(attack: str | None, changes: Sequence[str] = ()) -> None:
    """Check the names in the changes of a saved run, whose own settings are not read here.

    Raises:
        UnknownName: no such attack, or it has no such setting; ValueError: a text that changes nothing.
    """
    given = [text for text in changes if attack or re.match(r"\s*attacks?\s*=", text)]
    chosen = [f"attack={attack}"] if attack else []
    settings = override({}, [*chosen, *given])
    if "attacks" in settings or "attack" in settings:
        check_names(plain({key: value for key, value in settings.items() if key in ("attack", "attacks")}))


def check_backend(backend: str, workers: int | None = None) -> None:
    """Check what a run is executed by.

    Raises:
        ValueError: no such backend, or fewer than one worker.
    """
    if backend not in BACKENDS:
        raise ValueError(f"'backend' takes {' or '.join(BACKENDS)}, not '{backend}'")
    if workers is not None and workers < 1:
        raise ValueError(f"'workers' must be at least 1, not {workers}")


def check_run_folder(folder: Path, finished: bool = True) -> None:
    """Check that a folder may be a run, and a `finished` one: whether it is one, `run.again` says.

    Raises:
        ValueError: it has no results, or not even a configuration.
    """
    mark, what = (RESULTS, "a finished run") if finished else (CONFIG, "a run")
    if not (folder / mark).is_file():
        raise ValueError(f"{folder.absolute()} is not {what}: it has no {mark}")


def check_listed(kind: str | None) -> None:
    """Check what is to be listed; None is everything.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind is not None and kind not in LISTED:
        raise no_such("kind of entry to list (nothing lists them all)", kind, list(LISTED))


def plain(settings: ReadTable) -> Experiment:
    """The experiment of these settings, as TOML or JSON gives them, with the types of its values checked alone.

    Raises:
        UnknownName: a setting that does not exist. ValueError: a value of the wrong type.
    """
    settings = {"name": "unnamed", **settings}
    if "attack" in settings:
        settings["attacks"] = [settings.pop("attack")]
    for key in ("training_defences", "inference_defences"):
        if settings.get(key):
            settings[key] = chains(key, settings[key])
    return Experiment(**check_settings("the experiment", Experiment, settings))


def check_numbers(experiment: Experiment) -> None:
    """Check every number, the name and the device.

    Raises:
        ValueError: one that does not fit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", experiment.name):
        raise ValueError(f"'name' becomes a folder: letters, digits, '_', '-' and '.' only, not {experiment.name!r}")
    if experiment.device not in DEVICES:
        raise ValueError(f"'device' takes one of {', '.join(DEVICES)}, not '{experiment.device}'")
    if experiment.seed < 0:
        raise ValueError(f"'seed' must be at least 0, not {experiment.seed}")
    for key in POSITIVE:
        if getattr(experiment, key) < 1:
            raise ValueError(f"'{key}' must be at least 1, not {getattr(experiment, key)}")
    if experiment.attacked_batch_size < 0:
        raise ValueError(f"'attacked_batch_size' must be at least 0, not {experiment.attacked_batch_size}")
    if experiment.attacked_batch_size and experiment.channel not in ("gradient", "update"):
        raise ValueError(
            f"'attacked_batch_size' is for gradients and updates, whose images are attacked message by message: on the "
            f"{experiment.channel} channel leave it out"
        )
    for key in ("learning_rate", "timeout"):
        if not 0 < getattr(experiment, key) < math.inf:
            raise ValueError(f"'{key}' must be a finite number above 0, not {getattr(experiment, key)}")
    for low, high in AT_MOST:
        if getattr(experiment, low) > getattr(experiment, high):
            raise ValueError(
                f"'{low}' ({getattr(experiment, low)}) cannot be more than '{high}' ({getattr(experiment, high)})"
            )
    _check_rounds(experiment.attacked_rounds, experiment.rounds)
    held = experiment.train_images
    if held and not (len(held) == 2 and 0 <= held[0] < held[1]):
        raise ValueError(f"'train_images' takes a first image and an end, such as [0, 40000], not {list(held)}")


def _check_rounds(attacked: Sequence[int], rounds: int) -> None:
    outside = [each for each in attacked if not 1 <= each <= rounds]
    if outside or not attacked:
        raise ValueError(f"'attacked_rounds' must name rounds from 1 to {rounds}, not {list(attacked)}")


def check_names(experiment: Experiment) -> None:
    """Check the channel, and every component that is the suite's own.

    Where anything comes from elsewhere, nothing is said: code that is imported may register names of its own.

    Raises:
        UnknownName: no such channel, component or setting.
    """
    check_channel(experiment.channel, CHANNELS)
    chosen = _chosen(experiment)
    if not registered() or any(":" in each["name"] or _is_plug_in(registry, each) for registry, each in chosen):
        return
    for registry, each in chosen:
        name, kind, known = each["name"], KINDS[registry], registered()[registry]
        if name not in known:
            raise no_such(kind, name, sorted({*known, *plug_ins(kind)}))
        settings = settings_of(known[name], keyword_only=registry in ("DATASETS", "PARTITIONS"))
        for key in each:
            if key not in ("name", *BESIDE.get(registry, ()), *settings):
                raise no_such(f"setting of {kind} '{name}'", key, settings)


def check_channel(name: str, known: Sequence[str]) -> None:
    """Check a channel's name against those that there are.

    Raises:
        UnknownName: it is none of them.
    """
    if name not in known:
        raise UnknownName(f"no channel is called '{name}'. Known: {', '.join(sorted(known))}.")


def _chosen(experiment: Experiment) -> list[tuple[str, Component]]:
    """Every component of an experiment with the variable of its registry."""
    chains_of = (*experiment.training_defences, *experiment.inference_defences)
    return [
        ("DATASETS", experiment.dataset),
        ("PARTITIONS", experiment.partition),
        ("MODELS", experiment.model),
        *([("DATASETS", experiment.public)] if experiment.public else []),
        *(("ATTACKS", each) for each in experiment.attacks),
        *(("DEFENCES", each) for chain in chains_of for each in chain),
    ]


def _is_plug_in(registry: str, chosen: Component) -> bool:
    return chosen["name"] in plug_ins(KINDS[registry])
