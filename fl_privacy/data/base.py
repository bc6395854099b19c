"""What a data set is, where it is found, and how it is loaded by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.registry import Registry
from fl_privacy.settings import UnknownName, check_settings, no_such


@dataclass(frozen=True)
class ImageSet:
    """Images kept as bytes: `pixels` (N, C, H, W) uint8, `labels` (N,) int64, `attributes` (N, K) bool or None.

    Raises:
        ValueError: a tensor of another type or shape.
    """

    pixels: Tensor
    labels: Tensor
    attributes: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("pixels", self.pixels), ("labels", self.labels)):
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a torch tensor, not {type(value).__name__}: see torch.from_numpy")
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            raise ValueError(f"pixels must be uint8 (N, C, H, W), not {_described(self.pixels)}: see data.from_tensors")
        if _channels_last(self.pixels.shape):
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} look like images (N, H, W, C), and they are (N, C, H, W) "
                "here: pass images.permute(0, 3, 1, 2)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(self.pixels)},), not {_described(self.labels)}")
        extra = self.attributes
        if extra is not None and (extra.dtype != torch.bool or extra.dim() != 2 or len(extra) != len(self.labels)):
            raise ValueError(f"attributes must be bool ({len(self.labels)}, K), not {_described(extra)}")

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The chosen images as float32 in [0, 1]."""
        return self.pixels[index].float() / 255

    def chosen(self, index: Tensor | slice) -> ImageSet:
        """The set of the chosen examples, in the order of `index`."""
        return ImageSet(
            self.pixels[index], self.labels[index], None if self.attributes is None else self.attributes[index]
        )


def _channels_last(shape: torch.Size) -> bool:
    """Whether a shape of four sizes is that of colour images, or square grey ones, with their channels last."""
    _, first, second, last = shape
    return min(first, second) > 4 and (last in (3, 4) or (last == 1 and first == second))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split of one image shape, with `classes` labels and named binary `attributes`.

    Raises:
        ValueError: an empty split, splits of two image shapes, a label outside 0 ... classes - 1, unnamed attributes.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: int
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for which, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise ValueError(f"the {which} split of '{self.name}' is empty")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                raise ValueError(
                    f"the {which} split of '{self.name}' has labels {low} to {high}, outside 0 to {self.classes - 1}"
                )
            columns = 0 if split.attributes is None else split.attributes.shape[1]
            if columns != len(self.attributes):
                raise ValueError(f"the {which} split of '{self.name}' has {columns} attributes for {self.attributes}")
        if self.train.pixels.shape[1:] != self.test.pixels.shape[1:]:
            raise ValueError(
                f"'{self.name}' has images {tuple(self.train.pixels.shape[1:])} to train with and "
                f"{tuple(self.test.pixels.shape[1:])} to test with"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width


Loader = Callable[..., DataSet]
"""(root: Path | None, **settings) -> DataSet. `root` is None where no data folder was named."""

DATASETS: Registry[Loader] = Registry("data set")


def load(name: str, root: Path | None, settings: Mapping[str, Any]) -> DataSet:
    """The data set `name` (or a user's `package.module:function`) from the data folder `root`, with checked settings.

    Raises:
        UnknownName: no such set, or it has no such setting.
        ValueError: a setting of the wrong type or out of range, or a user's function that fails or returns no DataSet.
        MissingData: the set is not in `root`.
    """
    loader = DATASETS[name]
    checked = keyword_settings(f"data set '{name}'", loader, settings)
    try:
        found: object = loader(root, **checked)
    except (LookupError, OSError, ValueError):
        raise
    except Exception as error:  # the user's own code can raise anything
        raise ValueError(
            f"the data set '{name}' cannot be loaded: called with the data folder ({root}), it fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, DataSet):
        raise ValueError(
            f"the data set '{name}' is a {type(found).__name__}, and must be a DataSet: let its function return "
            "`fl_privacy.from_tensors(name, (images, labels), (test_images, test_labels), classes)`"
        )
    return found


def keyword_settings(owner: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check `settings` against the keyword-only parameters of `function`: the others are not the user's to set.

    Raises:
        UnknownName, ValueError: as `registry.check_settings`.
    """
    parameters = inspect.signature(function).parameters
    own = [each.name for each in parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in settings:
        if key not in parameters:
            raise no_such(f"setting of {owner}", key, own)
        if key not in own:
            raise UnknownName(f"'{key}' of {owner} is given by the suite and cannot be set among its settings")
    return check_settings(owner, function, settings)


def available(name: str, root: Path | None) -> bool | None:
    """Whether the registered set `name` is embedded, or one of its places is in `root`; nothing is read.

    None where that cannot be known, because another package brought the set.
    """
    if not (facts := DATASETS.facts(name)):
        return None
    places = facts.get("places", ())
    return bool(facts.get("embedded", False)) or any((folder_of(root) / place).exists() for place in places)


class MissingData(FileNotFoundError):
    """A data set is not where it was looked for; the message says the three ways to get it."""


def data_root(given: str | os.PathLike[str] | None = None) -> Path | None:
    """The data folder: `given` (--data-root), else the environment's FL_PRIVACY_DATA, else None."""
    chosen = given or os.environ.get("FL_PRIVACY_DATA")
    return Path(chosen).expanduser() if chosen else None


def folder_of(root: Path | None) -> Path:
    """`root`, else the user's cache folder, where a download goes when no data folder was named."""
    if root is not None:
        return root
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fl-privacy" / "data"


def missing(name: str, looked: str, third: str | None = None) -> MissingData:
    """The error for a set that is not there; `third` replaces the torchvision download where there is none."""
    third = third or "let torchvision download it: --set dataset.download=true with a network"
    return MissingData(
        f"the data set '{name}' was not found ({looked}). Three ways to get it: (1) point --data-root at a folder that "
        f"has it in torchvision's layout; (2) set FL_PRIVACY_DATA to that folder; (3) {third}. "
        f"'digits' and 'glyphs' need none of these."
    )


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """Byte images (N, C, H, W) scaled to (size, size) by bilinear interpolation with antialiasing; None keeps them."""
    if size is None or tuple(pixels.shape[-2:]) == (size, size):
        return pixels
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    parts = (pixels[start : start + 1000].float() for start in range(0, len(pixels), 1000))
    scaled = [F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False) for part in parts]
    return torch.cat(scaled).round().clamp(0, 255).to(torch.uint8)


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
