"""Weights and updates as people save them: safetensors, npz, a torch state dict, a Flower record and its protobuf."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from flwr.app import ArrayRecord
from flwr.common.serde import array_record_from_proto
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.strategies.records import unpack

Weights = str | Path | Mapping[str, Tensor] | ArrayRecord
"""A file, tensors by name, or what a Flower message holds."""
KINDS = (
    ".safetensors, .npz (numpy.savez(path, **arrays)), or .pt, .pth, .bin (torch.save of a state dict); a Flower "
    "record by torch.save(record.to_torch_state_dict(), 'x.pt'), or its protobuf as .pb"
)
OPENED = (".pkl", ".pickle", ".npy", ".joblib")
"""Files that may hold a pickle."""
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
            return _npz(path)
        if path.suffix == ".pb":
            return _protobuf(path)
        if path.suffix in (".pt", ".pth", ".bin"):
            return _tensors(_state_dict(path), str(path))
    except (OSError, SafetensorError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    why = ": to open a pickle could run a stranger's code" if path.suffix in OPENED else ""
    raise ValueError(f"{path} is of no kind that is read{why}. Save the tensors as {KINDS}")


def _npz(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        except ValueError as error:  # an array of objects is a pickle
            raise ValueError(
                f"{path} holds a list as one array, and to read it could run a stranger's code: save each array for "
                "itself, numpy.savez(path, *record.to_numpy_ndarrays()) with the star"
            ) from error


def _protobuf(path: Path) -> Tensors:
    """A Flower ArrayRecord as it crosses the wire, whose arrays are of NumPy's own format without objects."""
    try:
        found = unpack(array_record_from_proto(ArrayRecordProto.FromString(path.read_bytes())))
    except (DecodeError, ValueError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} is no whole protobuf of a Flower ArrayRecord ({error}): a whole message, or a record dict, has it "
            "as message.content['arrays']"
        ) from error
    if not found:
        raise ValueError(f"{path} holds no array: it is empty, or the protobuf of something else than an ArrayRecord")
    return found


def _state_dict(path: Path) -> object:
    """What torch.save wrote, of which tensors and plain values alone are read."""
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError):
        raise
    except Exception as error:  # of the unpickler, whose module is imported nowhere here
        raise ValueError(
            f"{path} holds more than tensors, and to read it could run a stranger's code: save `model.state_dict()` in "
            "place of the model, `record.to_torch_state_dict()` in place of a Flower record, or use safetensors"
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
