"""The prior of images near one another: each sought image has the mean and covariance of some of the attacker's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.attacks.inversion.priors import Prior, corrected

LEAST = 8
"""Own images from which a covariance is worth having."""


@dataclass(frozen=True)
class Neighbours(Prior):
    """A prior for each of N images, all of them corrections of one `base`: coordinates are (N, k), images (N, C, H, W).

    `mean` (N, C, H, W), `directions` (N, k, r), `scales` (N, r), `rest` (N, 1), each as in `priors.Corrected`.
    """

    base: Prior
    mean: Tensor
    directions: Tensor
    scales: Tensor
    rest: Tensor

    def linear(self, u: Tensor) -> Tensor:
        return self.base.linear(self.rest * u + self._along(u, self.scales - self.rest))

    def inverse(self, difference: Tensor) -> Tensor:
        v = self.base.inverse(difference)
        return v / self.rest + self._along(v, 1 / self.scales - 1 / self.rest)

    def volume(self) -> Tensor:
        left = self.directions.shape[1] - self.directions.shape[2]
        return self.base.volume() + self.scales.log().sum(1) + left * self.rest[:, 0].log()

    def _along(self, u: Tensor, factor: Tensor) -> Tensor:
        """D (factor D^T u) for every image's own directions D."""
        along = torch.einsum("nk,nkr->nr", u, self.directions) * factor
        return torch.einsum("nr,nkr->nk", along, self.directions)


def near(base: Prior, images: Tensor, chosen: Tensor) -> Neighbours:
    """One prior for each row of `chosen` (N, m): of these m of the attacker's `images` (M, C, H, W), shrunk to `base`.

    Raises:
        ValueError: fewer than 8 images a row.
    """
    if chosen.shape[1] < LEAST:
        raise ValueError(
            f"a prior of neighbours needs at least {LEAST} of the attacker's own images, not {len(images)}"
        )
    found = [corrected(base, own - own.mean(0), own.mean(0)) for own in (images[row] for row in chosen)]
    most = max(each.directions.shape[1] for each in found)
    return Neighbours(
        base,
        torch.stack([each.mean for each in found]),
        torch.stack([_padded(each.directions, most, 0.0) for each in found]),
        torch.stack([_padded(each.scales, most, each.rest) for each in found]),
        torch.tensor([[each.rest] for each in found]).to(images),
    )


def _padded(value: Tensor, size: int, filling: float) -> Tensor:
    """The last dimension filled up to `size`."""
    missing = value.new_full((*value.shape[:-1], size - value.shape[-1]), filling)
    return torch.cat([value, missing], -1)
