"""What a data set is, and where it is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.catalogue import Catalogue


@dataclass(frozen=True)
class ImageSet:
    """Images kept as bytes: `pixels` (N, C, H, W) uint8 and `labels` (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images as float32 in [0, 1]."""
        return self.pixels[index].float() / 255


@dataclass(frozen=True)
class DataSet:
    """A training and a test split of one image shape, with `classes` labels."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width


Loader = Callable[..., DataSet]
"""(root: Path | None, **settings) -> DataSet. `root` is None where no data folder was named."""

DATASETS: Catalogue[Loader] = Catalogue("data set")


class MissingData(FileNotFoundError):
    """A data set is not where it was looked for; the message says the three ways to get it."""


def data_root(given: str | os.PathLike[str] | None = None) -> Path | None:
    """The data folder: `given` (--data-root), else the environment's FL_PRIVACY_DATA, else None."""
    chosen = given or os.environ.get("FL_PRIVACY_DATA")
    return Path(chosen).expanduser() if chosen else None


def missing(name: str, looked: str) -> MissingData:
    """The error for a set that is not there."""
    return MissingData(
        f"the data set '{name}' was not found ({looked}). Three ways to get it: (1) point --data-root at a folder that "
        f"has it in torchvision's layout; (2) set FL_PRIVACY_DATA to that folder; (3) let torchvision download it: "
        f"--set dataset.download=true with a network. 'digits' needs none of these."
    )


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """Byte images (N, C, H, W) scaled to (size, size) by bilinear interpolation with antialiasing; None keeps them."""
    if size is None or tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    scaled = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in pixels.split(1000)
    ]
    return torch.cat(scaled).round().clamp(0, 255).to(torch.uint8)
