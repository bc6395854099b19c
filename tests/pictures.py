"""Every image that a folder holds, in whatever form: tensors, numbers in JSON, tiles of pictures, pictures in pages."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

SMALLEST = 40
"""Pixels of a tile's edge: letters are smaller."""
URI = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def images_in(folder: Path, shape: tuple[int, int, int]) -> Iterator[tuple[str, Tensor]]:
    """(where it is, a grey image (1, H, W) in [0, 1]) for all that a folder holds of images of one channel."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            found = _of_tensors(safetensors.torch.load_file(path).values(), shape)
        elif path.suffix == ".png":
            found = _tiles(path.read_bytes(), shape)
        elif path.suffix == ".html":
            pages = [base64.b64decode(each) for each in URI.findall(path.read_text())]
            found = (tile for page in pages for tile in _tiles(page, shape))
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found = (image for line in lines for image in _of_numbers(json.loads(line), shape))
        else:
            continue
        for image in found:
            yield str(path.relative_to(folder)), image


def _of_tensors(tensors: Any, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    size = int(np.prod(shape))
    for value in tensors:
        if value.numel() and value.numel() % size == 0 and value.is_floating_point():
            yield from value.float().reshape(-1, *shape)


def _of_numbers(value: Any, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    try:
        yield from _of_tensors([torch.tensor(value, dtype=torch.float32)], shape)
    except (TypeError, ValueError):
        for each in value:
            yield from _of_numbers(each, shape)


def _tiles(content: bytes, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """The rectangles of a picture that stand on white, each pixel of theirs read in its middle."""
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=np.float32) / 255
    parts, _ = ndimage.label(picture < 1, structure=np.ones((3, 3)))
    for rows, columns in ndimage.find_objects(parts):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) >= SMALLEST:
            for border in range(3):  # the line around a tile, as thick as it may be
                tile = picture[rows, columns][border : height - border, border : width - border]
                sides = zip(shape[1:], tile.shape, strict=True)
                at = [((np.arange(count) + 0.5) * edge / count).astype(int) for count, edge in sides]
                yield torch.from_numpy(tile[np.ix_(*at)].copy())[None]
