"""What the sets that torchvision reads have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_privacy.data.base import ImageSet, folder_of, missing, resized


def splits(name: str, build: Callable[..., Any], root: Path | None, download: bool) -> tuple[Any, Any]:
    """torchvision's train and test objects, `build(folder, train=..., download=...)`.

    Raises:
        MissingData: torchvision does not find the set, or finds other bytes than it knows, or cannot download it.
    """
    folder = folder_of(root)
    try:
        train, test = (build(str(folder), train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError) as error:
        named = "" if root is not None else "; no data folder was named"
        raise missing(name, f"in {folder}{named}; torchvision says: {error}") from error
    return train, test


def image_set(pixels: Tensor, labels: Tensor | list[int], size: int | None) -> ImageSet:
    """Bytes (N, H, W) or (N, H, W, 3) as torchvision keeps them, as an ImageSet of (size, size) images."""
    planes = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return ImageSet(resized(planes.contiguous(), size), torch.as_tensor(labels, dtype=torch.int64))
