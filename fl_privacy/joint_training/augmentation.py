"""The seven augmentations of the vicious classifiers' code, one at random for each image, whole groups at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """One random operation an image: (N, C, H, W) in [0, 1] to the same, on the images' device; draws from a CPU `rng`.

    Source: mmalekzadeh/vicious-classifiers, TDRA/utils.py get_aug_set, which runs torchvision image by image.
    """
    chosen = torch.randint(len(OPERATIONS), (len(images),), generator=rng)
    out = images.clone()
    for number, operation in enumerate(OPERATIONS):
        index = (chosen == number).nonzero().flatten().to(images.device)
        if len(index):
            out[index] = operation(images[index], rng)
    return out.clamp(0, 1)


def _uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def _between(low: int, high: Tensor, rng: torch.Generator) -> Tensor:
    """Whole numbers from `low` to `high` (N,), both included."""
    return (low + torch.rand(len(high), generator=rng) * (high - low + 1)).floor().long()


def _flip(images: Tensor, rng: torch.Generator) -> Tensor:
    return images.flip(-1)


def _erase(images: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    area = _uniform(count, 0.02, 0.2, rng) * height * width
    ratio = _uniform(count, math.log(0.2), math.log(2.2), rng).exp()
    # torchvision draws again where a box would not fit; clamping keeps one draw an image
    tall = (area * ratio).sqrt().round().clamp(max=height - 1)
    wide = (area / ratio).sqrt().round().clamp(max=width - 1)
    top, left = _between(0, height - tall, rng), _between(0, width - wide, rng)
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    box = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
    return images.masked_fill(box.to(images.device), 0.0)


def _perspective(images: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    far_x = torch.full((count,), int(0.5 * (width // 2)))
    far_y = torch.full((count,), int(0.5 * (height // 2)))
    moved = torch.stack([torch.stack([_between(0, far_x, rng), _between(0, far_y, rng)], 1) for _ in range(4)], 1)
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    start = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    return warp(images, start.float(), (start + signs * moved).float())


def warp(images: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The perspective that moves the corners `start` (4, 2) of every image to its `end` (N, 4, 2), in pixels (x, y).

    Bilinear, black outside; equals torchvision's `perspective` with fill 0, for many images at once.
    """
    count, _, height, width = images.shape
    a, b, c, d, e, f, g, h = homography(start, end).to(images.device).float().T.reshape(8, count, 1, 1)
    x = (torch.arange(width, device=images.device) + 0.5).view(1, 1, width)
    y = (torch.arange(height, device=images.device) + 0.5).view(1, height, 1)
    below = g * x + h * y + 1
    grid = torch.stack([(a * x + b * y + c) / below / (width / 2), (d * x + e * y + f) / below / (height / 2)], -1) - 1
    filled = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    warped = F.grid_sample(filled, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped[:, :-1] * warped[:, -1:]


def homography(start: Tensor, end: Tensor) -> Tensor:
    """The eight coefficients (N, 8), float64, of the map that takes `end` (N, 4, 2) back to `start` (4, 2)."""
    x, y = end.double().unbind(-1)
    u, v = start.double().expand_as(end).unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    first = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    second = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    solved: Tensor = torch.linalg.solve(torch.cat([first, second], 1), torch.cat([u, v], 1))
    return solved


def _functional() -> Any:
    """torchvision's transforms, imported where they are used: that takes seconds."""
    import torchvision.transforms.v2.functional as functional

    return functional


def _sharpen(images: Tensor, rng: torch.Generator) -> Tensor:
    out: Tensor = _functional().adjust_sharpness(images, 5.0)
    return out


def _contrast(images: Tensor, rng: torch.Generator) -> Tensor:
    out: Tensor = _functional().autocontrast(images)
    return out


def _zoom(images: Tensor, rng: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    centre = _functional().center_crop(images, [height * 2 // 3, width * 2 // 3])
    out: Tensor = _functional().resize(centre, [height, width], antialias=True)
    return out


def _blur(images: Tensor, rng: torch.Generator) -> Tensor:
    return blur(images, _uniform(len(images), 0.1, 2.0, rng))


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma (N,) in pixels of each image's own; 5 pixels wide, 9 high, mirrored borders."""
    count, channels, height, width = images.shape
    x = F.pad(images, (2, 2, 4, 4), mode="reflect").reshape(1, count * channels, height + 8, width + 4)
    for size, shape in ((9, (-1, 1, 9, 1)), (5, (-1, 1, 1, 5))):
        reach = torch.arange(size) - size // 2
        weights = (-0.5 * (reach / sigma[:, None]).square()).softmax(1).to(images.device)
        x = F.conv2d(x, weights.repeat_interleave(channels, 0).view(shape), groups=count * channels)
    return x.view(count, channels, height, width)


OPERATIONS: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    _flip,
    _erase,
    _perspective,
    _sharpen,
    _contrast,
    _zoom,
    _blur,
)
