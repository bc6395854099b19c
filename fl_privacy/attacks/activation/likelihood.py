"""What images are sought by behind activations: how well they explain these, by what is known of the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import KnownDefence
from fl_privacy.split.segments import ACTIVATION

DRAWS = 20_000
"""Values of the known noise that are drawn to measure its deviation and its law."""
HEAVY = 1.5  # excess kurtosis: between Gaussian noise, 0, and Laplace noise, 3
UNHEARD = 1e-6
"""The mean squared relative error to which activations without known noise are fitted."""
CORNER = 0.1
"""Deviations within which the corner of Laplace's law is rounded off: descent needs a slope."""


@dataclass(frozen=True)
class Noise:
    """What is known of the noise: its `deviation` (None: nothing) and whether its law is as `heavy` as Laplace's.

    `shared`: it is one of a few tensors, which groups of releases have in common. `chain`: where it was estimated, a
    defence that draws it.
    """

    deviation: float | None = None
    heavy: bool = False
    shared: bool = False
    chain: KnownDefence | None = None


@dataclass(frozen=True)
class Problem:
    """What N images are sought by: `released` (N, C, H, W) to (N, ...), the `target` that it should be, a `prior`.

    They are `victims` independent problems of N / victims images; coordinates are (victims, N / victims, k). An entry
    may be `off` by that much.
    """

    released: Callable[[Tensor], Tensor]
    target: Tensor
    prior: Prior
    victims: int
    off: float
    noise: Noise

    def residual(self, u: Tensor) -> Tensor:
        """Differences (victims, P), in units of what they may be off by."""
        found = self.released(self.prior.images(u.flatten(0, 1)))
        return ((found - self.target) / self.off).reshape(self.victims, -1)

    @torch.no_grad()
    def nats_of(self, images: Tensor) -> Tensor:
        """The same of images (N, C, H, W)."""
        u = self.prior.coordinates(images.to(self.target))
        return self.nats(u.view(self.victims, -1, u.shape[-1]))

    def nats(self, u: Tensor) -> Tensor:
        """Minus the log posterior (victims,) of coordinates, up to a constant; unknown noise has its best deviation."""
        left, prior = self.residual(u), 0.5 * u.square().sum((1, 2))
        if self.noise.deviation is None:
            return 0.5 * left.shape[1] * (left.square().mean(1) + UNHEARD).log() + prior
        if self.noise.heavy:
            return 2**0.5 * (left.square() + CORNER**2).sqrt().sum(1) + prior
        return 0.5 * left.square().sum(1) + prior


def measured(chain: KnownDefence, released: Tensor) -> Noise:
    """The noise that a known chain adds to what it releases (N, ...), on draws of one's own."""
    payload = {ACTIVATION: released}
    draws = [chain.on_release(payload, seed) for seed in range(max(1, DRAWS // released.numel()))]
    noise = torch.cat([draw[ACTIVATION] - chain.as_seen(payload, draw)[ACTIVATION] for draw in draws])
    variance = float(noise.square().mean())
    if variance == 0:
        return Noise()
    return Noise(variance**0.5, float(noise.double().pow(4).mean()) / variance**2 - 3 > HEAVY)
