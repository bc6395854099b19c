"""Image files as bytes: no layer, level or turn is lost in silence, and every error names its file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fl_privacy.data.base import resized

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
GROUND = (255, 255, 255)
"""What transparent pixels lie on: white."""
RESOURCE_FORKS = "__MACOSX"
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for a file that it cannot read."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's or an editor's own, such as .ipynb_checkpoints, ._a.png or __MACOSX."""
    return name.startswith(".") or name == RESOURCE_FORKS


def image_files(folder: Path) -> Iterator[Path]:
    """The image files at any depth of `folder`, folder by folder in the order of their names; nothing hidden."""
    for path, _, names in sorted(os.walk(folder, followlinks=True)):
        if not any(map(is_hidden, Path(path).relative_to(folder).parts)):
            yield from (
                Path(path, name) for name in sorted(names) if name.lower().endswith(SUFFIXES) and not is_hidden(name)
            )


def read_images(paths: Sequence[Path], size: int | None, grey: bool) -> Tensor:
    """The image files as bytes (N, 1 or 3, H, W), as a viewer shows them.

    The camera's turn (EXIF) is applied, transparent pixels lie on white, and 16 bits or floats in [0, 1] are brought to
    the nearest of 256 levels.

    Raises:
        ValueError: a file that cannot be read, that holds several images, or whose numbers have no stated range (each
            by its path); images of several sizes while `size` is None.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                array = _levels(image, grey)
        except BROKEN as error:
            raise ValueError(f"the image file {path} cannot be used: {error}") from error
        pixels = torch.from_numpy(array)
        images.append(resized(pixels[None, None] if grey else pixels.permute(2, 0, 1)[None], size))
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) > 1:
        raise ValueError(f"the images are of several sizes, {sizes[0]} to {sizes[-1]}: set dataset.size, such as 64")
    return torch.cat(images)


def _levels(image: Image.Image, grey: bool) -> np.ndarray:
    """One image as bytes (H, W) or (H, W, 3).

    Raises:
        ValueError: it has several frames, or numbers of no stated range.
    """
    # the further pictures of an MPO file are a camera's previews of the first
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it holds {frames} images; save those that you mean as files of their own")
    # Pillow opens 16 bits as "I" too; which file it was is forgotten by the turned copy
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image, sixteen)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*GROUND, 255)), layer)
    return np.array(image.convert("L" if grey else "RGB"))


def _eight_bit(image: Image.Image, sixteen: bool) -> Image.Image:
    """A picture of `sixteen`-bit integers, or of floats in [0, 1], in 256 levels; its one clear value becomes white.

    Raises:
        ValueError: other floats, or integers of 32 bits, whose largest is not known to mean white.
    """
    values = np.array(image).astype(np.float64)
    clear = image.info.get("transparency")
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"its floats, {values.min():g} to {values.max():g}, are not in [0, 1]: scale them first")
        levels = values * 255
    elif sixteen:
        levels = values / 257
    else:
        raise ValueError("it has integers of 32 bits, whose range is not stated: save it with 8 or 16")
    if isinstance(clear, int):
        levels = np.where(values == clear, 255, levels)
    return Image.fromarray(levels.round().astype(np.uint8))
