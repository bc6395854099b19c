"""GRNN's generator for many victims at once: each has weights of its own, side by side in grouped convolutions."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GrnnGenerator(nn.Module):
    """Fixed latents to images and soft labels, one independent generator a victim.

    Image branch: latent -> 4x4 (transposed convolution, GLU) -> doublings (nearest, 3x3 convolution, batch
    normalisation, GLU) -> sigmoid. Label branch: linear, softmax. Weights of V victims lie along the channel axis, so
    that one grouped convolution serves all of them; with V = 1 it is the published network, up to rounding.

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
        self.convs = nn.ParameterList([drawn(a * 9, 2 * b, a, 3, 3) for a, b in pairwise(widths)])
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(victims, 2 * b)) for b in widths[1:]])
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(victims, 2 * b)) for b in widths[1:]])
        self.label_weight = drawn(latent, latent, classes)
        self.label_bias = drawn(latent, 1, classes)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Images (V, B, C, H, W) in (0, 1) and label logits (V, B, classes)."""
        victims, batch = self.victims, self.batch
        z: Tensor = self.latents  # type: ignore[assignment]
        x = torch.bmm(z, self.first_weight).view(victims, batch, -1, 4, 4)
        x = x + self.first_bias.view(victims, 1, -1, 1, 1)
        x = _glu(x.transpose(0, 1).flatten(1, 2), victims)
        for weight, gain, shift in zip(self.convs, self.gains, self.shifts, strict=True):
            x = doubled_convolution(x, weight)
            x = F.batch_norm(x, None, None, gain.flatten(), shift.flatten(), training=True)
            x = _glu(x, victims)
        images = x.sigmoid().view(batch, victims, -1, *x.shape[-2:]).transpose(0, 1)
        _, height, width = self.image_shape
        top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
        images = images[..., top : top + height, left : left + width]
        return images, torch.baddbmm(self.label_bias, z, self.label_weight)


def doubled_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Nearest doubling, then a 3x3 convolution of padding 1, for V victims: (B, V*I, H, W) to (B, V*O, 2H, 2W).

    `weight` (V, O, I, 3, 3). With few output channels the nine taps on the doubled image are done as four 2x2
    convolutions on the small one (each output pixel sees only four distinct inputs): the same sums, 2.25 times fewer
    products, and several times faster where a grouped convolution would be memory-bound.
    """
    victims, out_channels, in_channels = weight.shape[:3]
    if out_channels >= in_channels:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.conv2d(x, weight.flatten(0, 1), padding=1, groups=victims)
    batch, _, height, width = x.shape
    taps = _TAPS.to(weight)
    kernels = torch.einsum("paj,qbk,vocjk->vpqocab", taps, taps, weight).reshape(victims, -1, in_channels * 4)
    padded = F.pad(x.view(batch, victims, in_channels, height, width), (1, 1, 1, 1))
    corners = [padded[..., a : a + height + 1, b : b + width + 1] for a in (0, 1) for b in (0, 1)]
    columns = torch.stack(corners, 3).permute(1, 2, 3, 0, 4, 5).reshape(victims, in_channels * 4, -1)
    products = torch.bmm(kernels, columns).view(victims, 2, 2, out_channels, batch, height + 1, width + 1)
    phases = [products[:, p, q, :, :, p : p + height, q : q + width] for p in (0, 1) for q in (0, 1)]
    fine = torch.stack(phases, -1).view(victims, out_channels, batch, height, width, 2, 2)
    return fine.permute(2, 0, 1, 3, 5, 4, 6).reshape(batch, victims * out_channels, 2 * height, 2 * width)


_TAPS = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""(phase, small-image tap, kernel tap): which of a 3-tap kernel's weights fall on the same small pixel."""


def _glu(x: Tensor, victims: int) -> Tensor:
    """Gated linear unit over each victim's channels: (B, V*2C, H, W) to (B, V*C, H, W)."""
    halves = x.view(len(x), victims, 2, -1, *x.shape[-2:])
    return (halves[:, :, 0] * halves[:, :, 1].sigmoid()).flatten(1, 2)
