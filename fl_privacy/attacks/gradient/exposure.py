"""How bright images are whose gradient does not say it: to batch normalisation in training mode x and 2 x are one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.inversion.gauss_newton import Residual
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import Observation
from fl_privacy.seeding import stream
from fl_privacy.weights import moving_statistics

DRAWN = 384
LEAST = 1e-3
MARGIN = 1.0
"""The share by which the mean squared residual may grow: dark images also fit the small constant under the root."""


def is_open(seen: Sequence[Observation], given: Likelihood) -> bool:
    """Whether the clients' model divides by moments of the images themselves, and none of these were sent."""
    model = seen[0].model
    assert model is not None
    return seen[0].spec.training_mode and given.apart is None and bool(moving_statistics(model))


@torch.no_grad()
def exposed(residual: Residual, prior: Prior, u: Tensor) -> Tensor:
    """Coordinates u (V, B, k) of the same images, those of each victim times one factor, where that costs no fit.

    The mode of a Gaussian prior along such a ray of images is too dark: a point of it stands for more the farther out
    it lies. What images of the prior are like says better where they belong: from their ratio of deviation to mean,
    both of all pixels, their mean is regressed, in logarithms.

    Source: ours.
    """
    images = prior.images(u).nan_to_num(0.5)
    draws = torch.randn(DRAWN, *u.shape[1:], generator=stream(0, "exposure")).to(u)
    own = torch.stack([prior.images(each.expand_as(u)) for each in draws]).clamp(0, 1)  # (N, V, B, C, H, W)
    mean, ratio = _mean_and_ratio(own)
    centre, middle = mean.mean(0), ratio.mean(0)
    slope = ((mean - centre) * (ratio - middle)).mean(0) / (ratio - middle).square().mean(0).clamp_min(LEAST)
    found, found_ratio = _mean_and_ratio(images)
    factor = (centre + slope * (found_ratio - middle) - found).mean(1).exp()
    moved = prior.coordinates(images * factor.view(-1, 1, 1, 1, 1))
    before, after = (residual(each).square().mean(1) for each in (u, moved))
    return torch.where((after <= (1 + MARGIN) * before)[:, None, None], moved, u)


def _mean_and_ratio(images: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms (...) of the mean of images (..., C, H, W), and of their deviation over it."""
    mean = images.flatten(-3).mean(-1).clamp_min(LEAST).log()
    return mean, images.flatten(-3).std(-1).clamp_min(LEAST).log() - mean
