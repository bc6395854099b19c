"""Files of a run folder: names, and reading and writing them whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fl_privacy.atomic import write_atomic
from fl_privacy.observation import Tensors
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.results.layout import GUESSES, UNFINISHED

LONGEST = 80  # characters of a name that becomes a path; what is longer ends in a digest


def default_folder(name: str, seed: int) -> Path:
    """Where a run goes that names no folder: outputs/NAME/TIME_SEED."""
    return Path("outputs") / slug(name) / f"{time.strftime('%Y%m%d-%H%M%S')}_{seed}"


def slug(name: str) -> str:
    """The one way from a name of any kind to a single path component: letters, digits, '_', '-', '.', no dot first.

    Names that differ may have the same slug: whoever keeps several of a kind refuses that (`checks.check`).
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    safe = re.sub(r"^\.+", "_", safe) or "_"
    if len(safe) > LONGEST:
        return f"{safe[:LONGEST]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return safe


def guesses_folder(folder: Path, label: str) -> Path:
    """Where the reconstructions of the attack of this label lie."""
    return folder / GUESSES / slug(label)


def unfinished_folder(folder: Path, label: str) -> Path:
    """Where the calls of the attack of this label write down how far they are."""
    return folder / UNFINISHED / slug(label)


def path_inside(path: Path, folder: Path) -> str:
    """How a run in `folder` writes `path` down: relative where one lies inside the other, so that both can move."""
    path, folder = path.absolute(), folder.absolute()
    near = path.is_relative_to(folder) or folder.is_relative_to(path)
    return os.path.relpath(path, folder) if near else str(path)


def writable_folder(path: Path) -> Path:
    """Make a folder, if it is not there, and return its absolute path.

    Raises:
        ValueError: it cannot be written.
    """
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"the run folder {path} cannot be written: {error}") from error
    return path


def new_folder(path: Path) -> Path:
    """Make an empty folder for a run and return its absolute path.

    Raises:
        ValueError: it cannot be written, or something is in it: no run is ever overwritten.
    """
    path = writable_folder(path)
    if any(path.iterdir()):
        raise ValueError(f"the run folder {path} is not empty: choose another --out, or delete it first")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write JSON that any reader takes: NaN and infinities, which JSON has not, become null."""
    return write_atomic(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[ReadTable]) -> Path:
    """Write one JSON object a line."""
    lines = [json.dumps(plain(row), allow_nan=False) + "\n" for row in rows]
    return write_atomic(path, "".join(lines).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        ValueError: the file is not there or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is not a finished run: it has no {path.name}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged: {error}") from error


def read_object(path: Path, *keys: str) -> ReadTable:
    """Read a JSON object of a run folder that has these keys.

    Raises:
        ValueError: the file is not there, is not JSON, or holds something else.
    """
    value = read_json(path)
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing or not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing) or 'JSON object'}")
    return value


def plain(value: object) -> object:
    """The value as JSON holds it: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file of a run folder.

    Raises:
        ValueError: the file is not there or is no whole safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged or gone ({error})") from error


def write_tensors(path: Path, tensors: Tensors) -> Path:
    """Write tensors, on any device, as a safetensors file."""
    # clones: safetensors refuses tensors that share memory
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return write_atomic(path, safetensors.torch.save(copies))
