"""GRNN's generator for many victims at once: each has weights of its own, and one batched product serves them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GrnnGenerator(nn.Module):
    """Fixed latents to images and soft labels, one independent generator a victim.

    Image branch: latent -> 4x4 (transposed convolution, GLU) -> doublings (nearest, 3x3 convolution, batch
    normalisation, GLU) -> sigmoid. Label branch: linear, softmax. Up to rounding each is the published network.

    The side is the next power of two at or above the image; a larger canvas is cropped, which lets any size
    be attacked (the published one takes powers of two only).

    `width` is the channel count at full size; the published network has 32 and a latent of 128.

    Source: Ren et al. 2022, section 3; Rand2AI/GRNN, Generator/model.py (whose `weight_init` reaches no layer: torch's
    default initialisation is what it really runs with).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        victims: int,
        batch: int,
        latent: int,
        width: int,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.image_shape, self.victims, self.batch = image_shape, victims, batch
        side = max(16, 2 ** math.ceil(math.log2(max(image_shape[1:]))))
        ups = int(math.log2(side)) - 3
        widths = [width * 2**i for i in range(ups, -1, -1)] + [channels]

        def drawn(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(victims, *shape, generator=rng) * 2 - 1) / math.sqrt(fan_in))

        latents = torch.randn(victims, batch, latent, generator=rng)
        self.register_buffer("latents", latents)
        # torch's default for a transposed convolution counts out-channels x kernel as its fan-in
        first = 2 * widths[0]
        self.first_weight = drawn(first * 16, latent, first * 16)
        self.first_bias = drawn(first * 16, 1, first)
        convs = [drawn(a * 9, 2 * b, a, 3, 3) for a, b in pairwise(widths)]
        self.taps = nn.ParameterList([conv.detach().permute(0, 3, 4, 1, 2).contiguous() for conv in convs])
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(victims, 2 * b)) for b in widths[1:]])
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(victims, 2 * b)) for b in widths[1:]])
        self.label_weight = drawn(latent, latent, classes)
        self.label_bias = drawn(latent, 1, classes)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Images (V, B, C, H, W) in (0, 1) and label logits (V, B, classes)."""
        victims, batch = self.victims, self.batch
        z: Tensor = self.latents  # type: ignore[assignment]
        x = torch.bmm(z, self.first_weight).view(victims, batch, -1, 16) + self.first_bias.view(victims, 1, -1, 1)
        x = F.glu(x.transpose(1, 2).reshape(victims, -1, batch, 4, 4), 1)
        for taps, gain, shift in zip(self.taps, self.gains, self.shifts, strict=True):
            x = doubled_convolution(x, taps)
            by_channel = x.view(1, gain.numel(), -1)
            x = F.batch_norm(by_channel, None, None, gain.flatten(), shift.flatten(), training=True).view_as(x)
            x = interleaved(F.glu(x, 1))  # of half as many channels as before the GLU, which feels no order of pixels
        images = x.sigmoid().transpose(1, 2)
        _, height, width = self.image_shape
        top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
        images = images[..., top : top + height, left : left + width]
        return images, torch.baddbmm(self.label_bias, z, self.label_weight)


def doubled_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """Nearest doubling, then a 3x3 convolution of padding 1, for V victims: (V, I, B, H, W) to (V, O, 2, 2, B, H, W).

    `taps` (V, 3, 3, O, I). Each tap is one product on the small image, a quarter of the work on the doubled one; what
    the nine add up to on its four pixels (lower or not, right or not) for every small one is left for `interleaved`.
    """
    victims, _, _, out_channels, in_channels = taps.shape
    products = torch.bmm(taps.reshape(victims, -1, in_channels), x.reshape(victims, in_channels, -1))
    spread: Tensor = _Spread.apply(products.view(victims, 3, 3, out_channels, *x.shape[2:]))
    return spread


def interleaved(phases: Tensor) -> Tensor:
    """The doubled images (V, C, B, 2H, 2W) of the four pixels (V, C, 2, 2, B, H, W) for every small one."""
    victims, channels, _, _, batch, height, width = phases.shape
    return phases.permute(0, 1, 4, 5, 2, 6, 3).reshape(victims, channels, batch, 2 * height, 2 * width)


class _Spread(torch.autograd.Function):
    """What products with nine taps (V, 3, 3, O, B, H, W) add up to on the doubled image: (V, O, 2, 2, B, H, W).

    Written out, because each sum of shifted slices would otherwise be padded and copied, in both directions.
    """

    @staticmethod
    def forward(ctx: Any, products: Tensor) -> Tensor:
        victims, _, _, channels, *inner = products.shape
        rows = products.new_empty(victims, 2, 3, channels, *inner)
        _to_phases(products.unbind(1), rows.unbind(1), -2)
        phases = products.new_empty(victims, channels, 2, 2, *inner)
        _to_phases(rows.unbind(2), phases.permute(0, 2, 3, 1, 4, 5, 6).unbind(2), -1)
        return phases

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        (slope,) = given
        victims, channels, _, _, *inner = slope.shape
        rows = slope.new_empty(victims, 2, 3, channels, *inner)
        _to_taps(slope.permute(0, 2, 3, 1, 4, 5, 6).unbind(2), rows.unbind(2), -1)
        products = slope.new_empty(victims, 3, 3, channels, *inner)
        _to_taps(rows.unbind(1), products.unbind(1), -2)
        return products


def _to_phases(taps: Sequence[Tensor], phases: Sequence[Tensor], dim: int) -> None:
    """Along one axis: of a pixel's two, the first sees the pixel before it by one tap, the second the one after it."""
    (before, here, after), (first, second), inner = taps, phases, taps[0].shape[dim] - 1
    first.copy_(here).add_(after).narrow(dim, 1, inner).add_(before.narrow(dim, 0, inner))
    second.copy_(here).add_(before).narrow(dim, 0, inner).add_(after.narrow(dim, 1, inner))


def _to_taps(phases: Sequence[Tensor], taps: Sequence[Tensor], dim: int) -> None:
    """The slope of `_to_phases`."""
    (first, second), (before, here, after), inner = phases, taps, taps[0].shape[dim] - 1
    here.copy_(first).add_(second)
    after.copy_(first).narrow(dim, 1, inner).add_(second.narrow(dim, 0, inner))
    before.copy_(second).narrow(dim, 0, inner).add_(first.narrow(dim, 1, inner))
