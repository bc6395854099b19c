"""Weights and updates as people save them: safetensors, npz, a torch state dict, a Flower record."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.strategies.records import unpack

Weights = str | Path | Mapping[str, Tensor] | ArrayRecord
"""A file, tensors by name, or what a Flower message holds."""
KINDS = ".safetensors, .npz (numpy.savez(path, **arrays)), or .pt, .pth, .bin (torch.save of a state dict)"
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


def read_weights(source: Weights, order: Mapping[str, Tensor]) -> Tensors:
    """Tensors by name, on the CPU; nothing in a file is executed.

    `order` is the model's state dict: arrays without names (Flower's lists of ndarrays, arr_0, arr_1, ...) get its
    names in its order. What DataParallel or torch.compile put before the names is taken away.

    Raises:
        ValueError: no such file, another kind of file, or something else than tensors in it.
    """
    found = _named(_read(source), order)
    for prefix in WRAPPERS:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _read(source: Weights) -> Tensors:
    if isinstance(source, ArrayRecord):
        return unpack(source)
    if isinstance(source, Mapping):
        return _tensors(source, "what was given")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{path} is not there, or no file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        if path.suffix in (".pt", ".pth", ".bin"):
            return _tensors(_state_dict(path), str(path))
    except (OSError, SafetensorError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    raise ValueError(f"{path} is of no kind that can be read: save the tensors as {KINDS}")


def _state_dict(path: Path) -> object:
    """What torch.save wrote, of which tensors and plain values alone are read."""
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError):
        raise
    except Exception as error:  # of the unpickler, whose module is imported nowhere here
        raise ValueError(
            f"{path} holds more than tensors, and to read it could run a stranger's code: save "
            "`model.state_dict()` in place of the model, or use safetensors"
        ) from error
    return found


def _tensors(found: object, owner: str) -> Tensors:
    if isinstance(found, Mapping) and len(found) == 1 and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]  # as Lightning and others wrap it
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{owner} is no table of tensors by name: save `model.state_dict()`")
    return {str(name): value.detach().cpu() for name, value in found.items()}


def _named(found: Tensors, order: Mapping[str, Tensor]) -> Tensors:
    """Arrays that numpy.savez numbered, under the names of the model."""
    if not found or not all(re.fullmatch(r"arr_\d+", name) for name in found):
        return found
    if len(found) != len(order):
        raise ValueError(
            f"{len(found)} arrays without names, and the model's state dict has {len(order)} entries: save them by "
            "name, numpy.savez(path, **{name: value.numpy() for name, value in model.state_dict().items()})"
        )
    return {name: found[f"arr_{index}"] for index, name in enumerate(order)}
