"""Checkpoints: tensors and facts in one safetensors file, whole or not there, that tells when it is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fl_privacy.atomic import write_atomic
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable, ReadTable

FORMAT = "1"


@runtime_checkable
class State(Protocol):
    """What changes while something is computed, as named tensors and JSON, and back, bit for bit."""

    def take(self) -> tuple[Tensors, PlainTable]: ...
    def give(self, tensors: Tensors, facts: PlainTable) -> None: ...


def save(path: Path, tensors: Tensors, facts: ReadTable) -> None:
    """Write a checkpoint in the place of the one before; tensors may lie on any device."""
    text = json.dumps(facts)
    # clones: safetensors refuses tensors that share memory
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    about = {"format": FORMAT, "facts": text, "sha256": _sha256(plain, text)}
    write_atomic(path, safetensors.torch.save(plain, about))


def load(path: Path) -> tuple[Tensors, PlainTable]:
    """What `save` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged, or is no checkpoint of this version; and
            what to do.
    """
    mend = "Delete it, and what it holds is computed again, or start a run in another folder"
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the checkpoint {path} is damaged ({error}). {mend}") from error
    if about.get("format") != FORMAT or not {"facts", "sha256"} <= set(about):
        raise ValueError(f"{path} is no checkpoint that this version can read. {mend}")
    if _sha256(tensors, about["facts"]) != about["sha256"]:
        raise ValueError(f"the checkpoint {path} is damaged: its SHA-256 is not the one that it states. {mend}")
    facts: PlainTable = json.loads(about["facts"])
    return tensors, facts


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of `tensors`, in their order."""
    total = hashlib.sha256()
    for name, value in tensors.items():
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _sha256(tensors: Tensors, text: str) -> str:
    return hashlib.sha256(f"{digest(tensors)}|{text}".encode()).hexdigest()
