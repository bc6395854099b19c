"""The one reader of a saved run's experiment. A run folder is data: what it names is looked up, never imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.results import files, layout

PROSE = frozenset({"label", "conditions", "published"})
"""The keys of an experiment whose texts are only compared and printed."""


class UntrustedCode(ValueError):
    """A run folder names code that nobody has said to trust."""


@dataclass(frozen=True)
class Saved:
    """What a run folder says of itself: its experiment, and the folder that holds the observations it attacked."""

    experiment: Experiment
    source: Path


def read_saved(folder: Path, trust: bool = False) -> Saved:
    """The experiment in the config.json of a run folder; `trust` lets it name code, `module:name`.

    Raises:
        UntrustedCode: it names code. ValueError: no run, a damaged one, or one whose observations are gone.
    """
    path = folder / layout.CONFIG
    config = files.read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("experiment"), dict):
        raise ValueError(f"{path} is damaged: it has no experiment")
    if not trust:
        _refuse_code(path, config["experiment"])
    return Saved(configure(**config["experiment"]), _source(folder, config.get("observations")))


def named_code(settings: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in an experiment that could name code, with its place: ('dataset.name', 'mine:images').

    Every text with a colon counts, wherever it stands, so that no setting of no component can be forgotten.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key not in PROSE:
                yield from named_code(value, f"{where}.{key}".lstrip("."))
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from named_code(value, f"{where}[{index}]")
    elif isinstance(settings, str) and ":" in settings:
        yield where, settings


def _refuse_code(path: Path, settings: ReadTable) -> None:
    if found := list(named_code(settings)):
        code = ", ".join(f"{where} = {name!r}" for where, name in found)
        raise UntrustedCode(
            f"{path} names code: {code}. A run folder is data, and opening it would run that code. If you know what "
            "it does, say --trust (in Python: trust=True), from a folder in which it can be imported"
        )


def _source(folder: Path, observations: object) -> Path:
    """The run whose observations were attacked: `folder` itself, or the one that its config names.

    Raises:
        ValueError: that one is not there.
    """
    if observations is None:
        return folder
    if not isinstance(observations, str):
        raise ValueError(f"{folder / layout.CONFIG} is damaged: 'observations' is {observations!r}, no path")
    # runs of older versions name their source by an absolute path, although most lie inside it (RUN/attacks/NAME)
    for source in (folder / observations, folder.parent.parent):
        if (source / layout.OBSERVATIONS).is_dir():
            return source.resolve()
    raise ValueError(
        f"the run in {folder} attacked the observations of {folder / observations}, which are gone: put that folder "
        f"back, or write its new place as 'observations' into {folder / layout.CONFIG}"
    )
