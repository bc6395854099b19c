"""A run that was killed, taken up again: whether it is the same one, and what of it is there."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.run import contents

BEGUN = f".{layout.CONFIG}."


def run_folder(path: Path, federation: Federation, resume: bool, source: Path | None = None) -> tuple[Path, bool]:
    """The folder of a run, and whether something of that run is there already, which only `resume` allows.

    `source` is the run whose observations it attacks, if not its own.

    Raises:
        ValueError: it cannot be written, holds anything without `resume`, or holds another run than this one.
    """
    path = path.absolute()
    begun = (path / layout.CONFIG).is_file()
    if begun and resume:
        _check_same(path, federation, source)
        return path if (path / layout.RESULTS).is_file() else files.writable_folder(path), True
    if begun and not (path / layout.RESULTS).is_file():
        raise ValueError(
            f"the run folder {path} holds a run that is not finished: go on with it (--resume; resume=True in Python), "
            "or choose another --out"
        )
    if resume:
        forget_first_draft(path, layout.CONFIG)
    return files.new_folder(path), False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder of a run or a sweep for this process; a lock that goes with the process, however it ends.

    Raises:
        RuntimeError: another process is at it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another process is at the run or sweep in {folder}: wait for it, or end it") from error
        yield
    finally:
        os.close(handle)


def forget_checkpoints(folder: Path) -> None:
    """Remove what only a run needs whose rounds are not over."""
    shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)


def forget_first_draft(folder: Path, name: str) -> None:
    """Remove the draft of `name`, the first file of a folder, in whose writing a process was killed; nothing else."""
    if not folder.is_dir():
        return
    with suppress(RuntimeError), alone(folder):  # a process that lives is at it: the folder is not empty, then
        for draft in folder.glob(f".{name}.*.tmp"):
            draft.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove the files that a killed process was writing, in a run's folder that `alone` holds.

    The folder of another run in it, such as an attack's, has a lock of its own, and is left alone.
    """
    for place, inside, names in os.walk(folder):
        if Path(place) != folder and any(
            name in (layout.CONFIG, layout.AUDIT, layout.AUDIT_BEGUN) or name.startswith(BEGUN) for name in names
        ):
            inside.clear()
            continue
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                Path(place, name).unlink(missing_ok=True)


def _check_same(folder: Path, federation: Federation, source: Path | None) -> None:
    config = files.read_object(folder / layout.CONFIG, "experiment", "versions")
    now = json.loads(json.dumps(files.plain(dataclasses.asdict(federation.experiment))))
    changed = sorted(key for key in now if config["experiment"].get(key) != now[key])
    if changed:
        told = ", ".join(f"{key}: {config['experiment'].get(key)!r} there, {now[key]!r} now" for key in changed[:3])
        raise ValueError(f"the run in {folder} is another experiment ({told}): take its settings, or another --out")
    _check_source(folder, config.get("observations"), source)
    decides = contents.decides(federation.experiment)
    other = [name for name, version in decides["versions"].items() if config["versions"].get(name) != version]
    other += _changed_code(config.get("code", {}), decides["code"])
    if other:
        raise ValueError(
            f"the run in {folder} was begun with other versions ({', '.join(other)}), and its second half might have "
            "other bits than its first: install those that its config.json names and put the old source back, or run "
            "it anew with another --out"
        )
    contents.check(federation, folder)
    if config.get("data") != contents.data(federation):
        raise ValueError(
            f"the data are not those of the run in {folder}: '{federation.experiment.dataset['name']}', or who holds "
            "what of it, has changed since it was begun, and its rounds would be of two data sets. Put the old data "
            "back (or choose them with --data-root), or run it anew with another --out"
        )


def _check_source(folder: Path, observations: str | None, source: Path | None) -> None:
    """Check that a folder continues what it attacks: its own observations, or those of the run in `source`."""
    there = None if observations is None else (folder / observations).resolve()
    if there != (None if source is None else source.resolve()):
        own = "its own observations"
        raise ValueError(
            f"what {folder} holds attacks {there or own}, not {source or own}: one table would be of two runs. Name "
            "that run, or another --out"
        )


def _changed_code(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    modules = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    return ["fl-privacy's own code" if name == "fl_privacy" else f"the source of '{name}'" for name in modules]
