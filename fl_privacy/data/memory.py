"""A data set from tensors that the user already has."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.data.base import DataSet, ImageSet


def from_tensors(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> DataSet:
    """A DataSet of (images, labels) pairs: images (N, C, H, W) as bytes, or as floats in [0, 1]; labels (N,) integers.

    Floats are kept as bytes, to the nearest of 256 levels.

    Raises:
        ValueError: something else than tensors, floats outside [0, 1] or not finite, labels that are no integers, or
            what DataSet refuses.
    """
    return DataSet(name, _image_set(*train), _image_set(*test), classes)


def _image_set(images: Tensor, labels: Tensor) -> ImageSet:
    for what, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{what} must be a torch tensor, not {type(value).__name__}: see torch.from_numpy")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if images.is_floating_point():
        inside = (images >= 0) & (images <= 1)  # false for NaN too
        if bool(images.isnan().any()):
            raise ValueError(
                "images must lie in [0, 1], and some pixels are NaN: look for a division by zero where they were "
                "normalised, or leave those images out"
            )
        if not bool(inside.all()):
            raise ValueError("float images must lie in [0, 1]: undo any normalisation first, or divide bytes by 255")
        images = (images * 255).round().to(torch.uint8)
    return ImageSet(images.cpu(), labels.to("cpu", torch.int64))
