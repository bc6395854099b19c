"""A run that was killed, taken up again: whether it is the same one, and what of it is there."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.results import environment, files, layout, provenance

DECIDING = ("torch", "flwr", "numpy", "scipy", "scikit-learn")
"""The packages of which another version may give other bits."""


def run_folder(path: Path, experiment: Experiment, resume: bool) -> tuple[Path, bool]:
    """The folder of a run, and whether something of that run is there already, which only `resume` allows.

    Raises:
        ValueError: it cannot be written, holds anything without `resume`, or holds another run than this one.
    """
    path = path.absolute()
    begun = (path / layout.CONFIG).is_file()
    if resume:
        _tidy(path)
    if begun and resume:
        _check_same(path, experiment)
        return path, True
    if begun and not (path / layout.RESULTS).is_file():
        raise ValueError(
            f"the run folder {path} holds a run that is not finished: go on with it (--resume; resume=True in Python), "
            "or choose another --out"
        )
    return files.new_folder(path), False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; a lock that goes with the process, however it ends.

    Raises:
        RuntimeError: another process is at this run.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another process is at the run in {folder}: wait for it, or end it") from error
        yield
    finally:
        os.close(handle)


def forget_checkpoints(folder: Path) -> None:
    """Remove what only a run needs whose rounds are not over."""
    shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove the files that a killed process was writing."""
    for draft in folder.rglob(".*.tmp"):
        draft.unlink(missing_ok=True)


def _check_same(folder: Path, experiment: Experiment) -> None:
    config = files.read_object(folder / layout.CONFIG, "experiment", "versions", "provenance")
    now = json.loads(json.dumps(files.plain(dataclasses.asdict(experiment))))
    changed = sorted(key for key in now if config["experiment"].get(key) != now[key])
    if changed:
        told = ", ".join(f"{key}: {config['experiment'].get(key)!r} there, {now[key]!r} now" for key in changed[:3])
        raise ValueError(f"the run in {folder} is another experiment ({told}): take its settings, or another --out")
    versions = environment.versions()
    other = [name for name in DECIDING if config["versions"].get(name) != versions[name]]
    if config["provenance"].get("source") != provenance.installed()["source"]:
        other.append("fl-privacy's own code")
    if other:
        raise ValueError(
            f"the run in {folder} was begun with other versions ({', '.join(other)}), and its second half might have "
            "other bits than its first: install those that its config.json names, or run it anew with another --out"
        )
