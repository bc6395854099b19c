"""NoPeek's reconstruction testbed: an hourglass network from activation maps to images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.activation.decoder import LearnedDecoder, defended, descend, draw, pairs
from fl_privacy.attacks.base import ATTACKS, check_ranges
from fl_privacy.observation import Observation
from fl_privacy.seeding import seeded

FIRST, DEEPEST, BLOCKS = 32, 4, 3
LEAST_SIDE = 4
"""Pixels of a map: smaller ones leave nothing to reflect at the border."""
UNPADDED_SIDE = 8
"""Pixels of a map from which the first 7x7 convolution, which pads nothing, leaves two."""
TAIL = 6
"""Pixels that the last convolutions add to a side: each reflects three, and three of the four take two off."""


@ATTACKS.register("autoencoder_as_published")
@dataclass(frozen=True)
class AutoencoderAsPublished(LearnedDecoder):
    """The decoder of NoPeek's testbed: an hourglass on activation maps, Adam on the squared error, 500 epochs.

    Its pairs are exported once: each image with one release of its activations, under the client's defence where
    that is known, and no fresh noise later. `misaligned=True` repeats a fault of the published loader, which lists the
    folders of images and of activations apart and unsorted: each image then gets the activations of another, and a
    failure to rebuild says nothing about the defence. Where we leave it: it is published for maps of 3 channels, and
    could not read the 64 or 256 that are released; it goes down as long as more than two pixels a side are left (four
    times at the published 25x25), and up once more than down, as published, or as often as the image needs; maps of
    fewer than 8 pixels a side get the three of zeros that the first convolution does without; and the images are
    resized at the end, where the published network has the size that it has (70x70 from 25x25).

    Source: Vepakomma et al. 2020, section 4; tremblerz/nopeek, mystique/.
    """

    epochs: int = 500
    batch_size: int = 32
    learning_rate: float = 1e-3
    misaligned: bool = False
    public_images: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, at_least_one=("epochs",))

    def build(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Module:
        return Hourglass(released, image_shape)

    def fit(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        images, clean = pairs(seen, self.public_images)
        released = defended(clean, seen.defence, 1, rng)
        if self.misaligned:
            images = images[torch.randperm(len(images), generator=rng).to(images.device)]
        with torch.enable_grad(), seeded(draw(rng), "autoencoder"):
            network = self.build(tuple(released.shape[1:]), seen.spec.image_shape).to(released.device)
            optimiser = torch.optim.Adam(network.parameters(), self.learning_rate, fused=True)
            for _ in range(self.epochs):
                order = torch.randperm(len(images), generator=rng).to(released.device)
                for batch in torch.split(order, self.batch_size):
                    descend(network, optimiser, released[batch], images[batch])
        return network


class Hourglass(nn.Module):
    """Activation maps (N, C', H', W') to images (N, C, H, W), unclamped: down by strides, three blocks, up again."""

    def __init__(self, released: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if len(released) != 3 or min(released[1:]) < LEAST_SIDE:
            raise ValueError(
                f"the testbed of NoPeek reads maps (C, H, W) of at least {LEAST_SIDE} pixels a side, and the client "
                f"releases {released}: cut the model at an earlier stage, or attack with 'decoder'"
            )
        self.sides = image_shape[1:]
        width, side = FIRST, min(released[1:])
        padding = 0 if side >= UNPADDED_SIDE else 3
        # batch normalisation follows, so the published convolutions have no bias
        layers = _normalised(nn.Conv2d(released[0], width, 7, padding=padding, bias=False))
        side += 2 * padding - 6
        depth = 0
        while depth < DEEPEST and side > 2:
            layers += _normalised(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False))
            width, side, depth = 2 * width, (side + 1) // 2, depth + 1
        layers += [ReflectedBlock(width) for _ in range(BLOCKS)]
        while depth >= 0 or side + TAIL < min(self.sides):
            narrow = max(FIRST, width // 2)
            layers += _normalised(nn.ConvTranspose2d(width, narrow, 3, 2, 1, output_padding=1, bias=False))
            width, side, depth = narrow, 2 * side, depth - 1
        self.body = nn.Sequential(*layers)
        self.leave = nn.Sequential(
            nn.Conv2d(width, 16, 7, padding=3, padding_mode="reflect"),
            nn.Conv2d(16, 8, 5, padding=3, padding_mode="reflect"),
            nn.Conv2d(8, image_shape[0], 5, padding=3, padding_mode="reflect"),
            nn.Conv2d(image_shape[0], image_shape[0], 5, padding=3, padding_mode="reflect"),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.leave(self.body(z))
        if tuple(images.shape[2:]) != self.sides:
            images = F.interpolate(images, self.sides, mode="bilinear", align_corners=False, antialias=True)
        return images


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class ReflectedBlock(nn.Module):
    """Two 3x3 convolutions that reflect the border, with batch normalisation around a ReLU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out
