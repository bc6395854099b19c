"""One cache of trained models: what decides a training, a lock, and entries that are rebuilt where they are damaged.

The hash of all the package's sources is part of an identity. The modules that a training reaches could be listed by
their imports, but registries reach them by name, where no import shows it: a stale model is a silent error, and a
training too many is only time.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.results import environment, provenance

NAME = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")
Note = Callable[[str], None]


def identity(settings: ReadTable, parts: Iterable[object] = ()) -> PlainTable:
    """What decides the bits of a computation: settings, versions, and hashes of all code that these settings reach.

    `code` is this package's, and the user's `module:name`; `versions` are of the libraries beneath.

    `parts` are objects built from the settings (defences), whose modules count too.
    """
    modules = set(NAME.findall(json.dumps(settings))) | {type(part).__module__ for part in parts}
    theirs = {name for name in modules if name.split(".")[0] not in ("fl_privacy", "builtins", "__main__")}
    code = {name: value for name in sorted(theirs) if (value := module_hash(name)) is not None}
    code = {"fl_privacy": provenance.installed()["source"], **code}
    return {**settings, "code": code, "versions": environment.deciding()}


def module_hash(name: str) -> str | None:
    """The hash of a module's file, and of the whole package that it lies in; None where there is no such source."""
    try:
        spec = importlib.util.find_spec(name)
        top = importlib.util.find_spec(name.split(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    folders = (top.submodule_search_locations if top else None) or []
    found = {Path(spec.origin), *(path for folder in folders for path in Path(folder).rglob("*.py"))}
    roots = [Path(folder) for folder in folders] or [Path(spec.origin).parent]
    return provenance.digest({_relative(path, roots): path.read_bytes() for path in found})


def key(facts: ReadTable) -> str:
    """The 16 hex digits by which an entry of this identity is named."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def alone(path: Path, note: Note) -> Iterator[None]:
    """Hold an entry for this process: two runs that share a cache would write over each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another run is training this model; waiting for {path.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sound(path: Path, read: Callable[[Path], Any], note: Note) -> Any:
    """What `read` makes of an entry; None where there is none or it is damaged, which is noted and removed."""
    if not path.exists():
        return None
    try:
        return read(path)
    except (ValueError, KeyError, TypeError) as error:
        note(f"{path.name} in the cache is damaged ({error}): it is trained again")
        path.unlink()
        return None


def _relative(path: Path, roots: list[Path]) -> str:
    return next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), path.name)
