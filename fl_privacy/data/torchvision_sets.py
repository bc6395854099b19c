"""What the sets that torchvision reads have in common."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_privacy.data.base import ImageSet, folder_of, missing, resized


def splits(name: str, build: Callable[..., Any], root: Path | None, download: bool) -> tuple[Any, Any]:
    """torchvision's train and test objects, `build(folder, train=..., download=...)`.

    Raises:
        MissingData: torchvision does not find the set, or finds other bytes than it knows, or cannot download it.
        ValueError: a file of the set is damaged, or something else under its name.
    """
    folder = folder_of(root)
    try:
        train, test = (build(str(folder), train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError) as error:
        if damaged := _damaged_idx(build, folder):
            raise ValueError(_damage(name, damaged)) from error
        named = "" if root is not None else "; no data folder was named"
        other = _unknown_bytes(build, folder)
        which = f" (other bytes than the published ones: {', '.join(map(str, other))})" if other else ""
        raise missing(name, f"in {folder}{named}; torchvision says: {error}{which}") from error
    except Exception as error:  # its parser asserts, indexes and converts whatever the file holds
        raise ValueError(_damage(name, _damaged_idx(build, folder) or [folder])) from error
    if damaged := _damaged_idx(build, folder):
        raise ValueError(_damage(name, damaged))
    for part in (train, test):
        if len(part.data) != len(part.targets):
            raise ValueError(f"'{name}' in {folder} has {len(part.data)} images for {len(part.targets)} labels")
    return train, test


def _damage(name: str, files: Sequence[Path]) -> str:
    listed = ", ".join(map(str, files))
    return f"'{name}' cannot be read: {listed} is damaged, or no file of that set. Delete it and fetch the set anew"


def _damaged_idx(build: Callable[..., Any], folder: Path) -> list[Path]:
    """The files of an MNIST-like set that are there and not of the length that their own heads state.

    Format: two zero bytes, the type (8: bytes), the dimensions, then each as four bytes, the highest first.
    """
    owner = _class_of(build).__name__
    part = f"emnist-{build.keywords['split']}-" if isinstance(build, partial) else ""
    damaged = []
    for path in sorted((folder / owner / "raw").glob(f"{part}*-idx?-ubyte")):
        dimensions = int(path.name[-7])
        with path.open("rb") as file:
            head = file.read(4 * (dimensions + 1))
        sizes = struct.unpack(f">{dimensions}I", head[4:]) if len(head) == 4 * (dimensions + 1) else ()
        if head[:4] != bytes((0, 0, 8, dimensions)) or path.stat().st_size != len(head) + math.prod(sizes):
            damaged.append(path)
    return damaged


def _unknown_bytes(build: Callable[..., Any], folder: Path) -> list[Path]:
    """The files of a CIFAR set that are there with other bytes than torchvision knows."""
    from torchvision.datasets.utils import check_integrity

    owner = _class_of(build)
    known = [*getattr(owner, "train_list", ()), *getattr(owner, "test_list", ())]
    if meta := getattr(owner, "meta", None):
        known.append((meta["filename"], meta["md5"]))
    paths = [(folder / owner.base_folder / file, md5) for file, md5 in known]
    return [path for path, md5 in paths if path.is_file() and not check_integrity(str(path), md5)]


def _class_of(build: Callable[..., Any]) -> Any:
    return build.func if isinstance(build, partial) else build


def image_set(pixels: Tensor, labels: Tensor | list[int], size: int | None) -> ImageSet:
    """Bytes (N, H, W) or (N, H, W, 3) as torchvision keeps them, as an ImageSet of (size, size) images."""
    planes = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return ImageSet(resized(planes.contiguous(), size), torch.as_tensor(labels, dtype=torch.int64))
