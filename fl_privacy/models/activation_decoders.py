"""Networks from released activations to images: the published affine one and a stronger convolutional one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.models.split_cnn import MNIST_MEAN, MNIST_STD


class AffineDecoder(nn.Module):
    """Activations (N, ...) to images (N, C, H, W): a linear layer and four transposed convolutions, nothing in between.

    It has no activation function, so it is an affine map however deep it looks. It guesses normalised pixels, which are
    brought back to [0, 1]; training sees them unclamped. Sides must be even and at least 8. 4,674,993 parameters from
    500 activations to 1x28x28.

    Source: TTitcombe/Model-Inversion-SplitNN, src/dpsnn/attacker.py, ConvAttackModel.
    """

    def __init__(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 2 or width % 2 or min(height, width) < 8:
            raise ValueError(f"the published decoder takes even sides of at least 8, not {height}x{width}")
        coarse = ((height - 4) // 2, (width - 4) // 2)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(released), 64 * coarse[0] * coarse[1]),
            nn.Unflatten(1, (64, *coarse)),
            nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1),
            nn.ConvTranspose2d(64, 32, 3, padding=1),
            nn.ConvTranspose2d(32, 8, 3),
            nn.ConvTranspose2d(8, channels, 3),
        )

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.net(z) * MNIST_STD + MNIST_MEAN
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a SiLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.branch(x))


class ConvolutionalDecoder(nn.Module):
    """Activations (N, ...) to images (N, C, H, W) in (0, 1): residual convolutions at half the image's side, then a
    sub-pixel convolution.

    Vectors of activations come in through a linear layer, maps through a convolution of their space-to-depth form, so
    that a cut near the input loses no resolution. Activations are standardised by batch statistics first.
    """

    def __init__(self, released: tuple[int, ...], image_shape: tuple[int, int, int], width: int, blocks: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, breadth = image_shape
        self.mid = (math.ceil(height / 2), math.ceil(breadth / 2))
        self.spatial = len(released) == 3
        if self.spatial:
            self.standardise: nn.Module = nn.BatchNorm2d(released[0], affine=False)
            self.enter: nn.Module = nn.Conv2d(4 * released[0], width, 3, 1, 1)
        else:
            self.standardise = nn.BatchNorm1d(math.prod(released), affine=False)
            self.enter = nn.Sequential(
                nn.Linear(math.prod(released), width * math.prod(self.mid)), nn.Unflatten(1, (width, *self.mid))
            )
        self.body = nn.Sequential(nn.SiLU(), *(ResidualBlock(width) for _ in range(blocks)))
        self.leave = nn.Conv2d(width, 4 * channels, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        z = self.standardise(z if self.spatial else z.flatten(1))
        if self.spatial:
            full = (2 * self.mid[0], 2 * self.mid[1])
            z = F.pixel_unshuffle(F.interpolate(z, full, mode="bilinear", align_corners=False), 2)
        images = F.pixel_shuffle(self.leave(self.body(self.enter(z))), 2).sigmoid()
        return images[..., : self.image_shape[1], : self.image_shape[2]]


class Ensemble(nn.Module):
    """The mean of what several decoders make of the same activations."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([member(z) for member in self.members]).mean(0)
