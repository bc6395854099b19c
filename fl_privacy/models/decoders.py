"""Decoders: networks that turn a classifier's outputs back into the images that went in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fl_privacy.models.base import ModelFactory
from fl_privacy.registry import Registry
from fl_privacy.seeding import seeded
from fl_privacy.settings import check_settings

DECODERS: Registry[ModelFactory] = Registry("decoder")
"""(image_shape (C, H, W), classes, **settings) -> outputs (N, classes) to images (N, C, H, W) in (0, 1)."""

BLOCKS = 4


def build_decoder(
    name: str, image_shape: tuple[int, int, int], classes: int, seed: int, settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the decoder called `name` with weights drawn from `seed`.

    Raises:
        UnknownName: no such decoder or setting. ValueError: a value that does not fit.
    """
    chosen = check_settings(f"decoder '{name}'", DECODERS[name], settings or {})
    with seeded(seed, "decoder", name):
        return DECODERS[name](image_shape, classes, **chosen)


class Crop(nn.Module):
    """The centre of an image, where the canvas had to be a multiple of four."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[-2] - self.height) // 2, (x.shape[-1] - self.width) // 2
        return x[..., top : top + self.height, left : left + self.width]


@DECODERS.register("small")
def small(image_shape: tuple[int, int, int], classes: int, width: int = 32, hidden: int = 256) -> nn.Sequential:
    """Two linear layers and two doublings by 4x4 transposed convolutions: the partner of `vicious_small`.

    0.85 million parameters at 1x28x28, width 32 and 10 classes. Takes any side.
    """
    channels, height, side = image_shape
    low, wide = (-(-height // 4), -(-side // 4)), 2 * width
    area = wide * low[0] * low[1]
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Sequential(nn.Linear(classes, hidden), nn.ReLU()),
            spread=nn.Sequential(nn.Linear(hidden, area, bias=False), nn.BatchNorm1d(area), nn.ReLU()),
            fold=nn.Unflatten(1, (wide, *low)),
            up1=nn.Sequential(nn.ConvTranspose2d(wide, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            up2=nn.Sequential(
                nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()
            ),
            out=nn.Sequential(nn.Conv2d(width // 2, channels, 3, 1, 1), nn.Sigmoid()),
            crop=Crop(height, side),
        )
    )


class TransposedBlock(nn.Module):
    """BN, ReLU, transposed convolution, twice; the first of a group doubles the side, and its shortcut projects."""

    def __init__(self, channels_in: int, channels: int, first_group: bool) -> None:
        super().__init__()
        doubles = channels_in != channels
        kernel, stride = (4, 2) if doubles else (3, 1)
        self.enter = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        self.main = nn.Sequential(
            nn.ConvTranspose2d(channels_in, channels, kernel, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, channels, 3, 1, 1, bias=False),
        )
        # as published: 4 to 8 pixels by a 1x1 kernel of stride 3 with a border cut, which reaches one pixel in nine
        kernel, stride, padding = (1, 3, 1) if first_group else (2, 2, 0)
        self.shortcut = (
            nn.ConvTranspose2d(channels_in, channels, kernel, stride, padding, bias=False) if doubles else None
        )

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        kept = x if self.shortcut is None else self.shortcut(entered)
        out: Tensor = self.main(entered)
        return out.add_(kept)


@DECODERS.register("wide_resnet")
def transposed_wide_resnet(image_shape: tuple[int, int, int], classes: int, width: int = 5) -> nn.Sequential:
    """The published G: a linear layer to 64*width maps of 4x4, three groups of four transposed blocks, sigmoid.

    3.25 million parameters at width 5, 3x32x32 and 10 classes. Sides of 32 only, as published.

    Raises:
        ValueError: another side than 32.

    Source: Malekzadeh and Gündüz, TDRA/models.py, without its unused label embedding.
    """
    if image_shape[1:] != (32, 32):
        raise ValueError(f"the decoder 'wide_resnet' makes images of 32x32, not {image_shape[1:]}: load with size=32")
    sizes = [64 * width, 32 * width, 16 * width, 16 if width > 1 else 8]
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        spread=nn.Linear(classes, 16 * sizes[0]), fold=nn.Unflatten(1, (sizes[0], 4, 4))
    )
    for index, (before, after) in enumerate(pairwise(sizes)):
        first = TransposedBlock(before, after, index == 0)
        stages[f"group{index + 1}"] = nn.Sequential(
            first, *(TransposedBlock(after, after, index == 0) for _ in range(BLOCKS - 1))
        )
    stages["out"] = nn.Sequential(nn.ConvTranspose2d(sizes[-1], image_shape[0], 3, 1, 1, bias=False), nn.Sigmoid())
    return nn.Sequential(stages)
