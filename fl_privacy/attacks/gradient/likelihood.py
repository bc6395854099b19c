"""What is known of how a gradient came about: the client's computation, its defence, and how far entries may be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.batch_statistics import moments_apart
from fl_privacy.attacks.gradient.known_noise import noise_deviations
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import Matcher, observed_step
from fl_privacy.attacks.gradient.whitening import Whitening
from fl_privacy.attacks.inversion.gauss_newton import Linearise, Residual, linearise, slopes_of
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import Observation
from fl_privacy.weights import trainable

UNKNOWN = 1e-6
"""The least mean squared relative error to which a gradient without known noise is fitted."""
EXACT = 1e-12
WEAKEST = 1e-3
"""A layer whose gradient is smaller than this share of all layers' counts as if it had that size."""


@dataclass(frozen=True)
class Likelihood:
    """V victims of one model: their gradients `observed` (V, P), `match` from guesses to such gradients.

    `weight` (V, P) is one over what an entry may be off by: the deviation of the noise of a `known` law, else the root
    mean square of the layer's gradient, up to an unknown factor s that all entries share. `whiten` takes the place of
    such an unknown weight where it is given. `nearby`: a cheaper match, whose slopes serve for those of `match`.
    `apart`: how far images are from batch statistics that came with an update, (V, S); together they weigh as much as
    the gradient. `error` (V,): what the match itself errs by, as a variance in the unit of the residuals.
    """

    observed: Tensor
    weight: Tensor
    match: Matcher
    classes: int
    known: bool
    nearby: Matcher | None = None
    whiten: Whitening | None = None
    apart: Callable[[Tensor], Tensor] | None = None
    error: Tensor | float = 0.0

    @property
    def floor(self) -> Tensor | float:
        """The least noise variance s^2, in the unit of the residuals."""
        return (1.0 if self.known else UNKNOWN) + self.error

    def weighted(self, gradients: Tensor) -> Tensor:
        """How far gradients (V, P) are from those observed, each entry in its unit, or whitened."""
        differences = gradients - self.observed
        return differences * self.weight if self.whiten is None else self.whiten(differences)

    def residual(self, prior: Prior, labels: Tensor) -> Residual:
        """Weighted differences (V, P + S) as a function of coordinates (V, B, k), for labels (V, B)."""
        targets = F.one_hot(labels, self.classes).to(self.observed)
        apart = self.apart

        def residual(u: Tensor) -> Tensor:
            images = prior.images(u)
            gradients = self.weighted(self.match(images, targets))
            if apart is None:
                return gradients
            others = apart(images)
            return torch.cat([gradients, others * math.sqrt(gradients.shape[1] / others.shape[1])], 1)

        return residual

    def linear(self, prior: Prior, labels: Tensor) -> Linearise:
        """How such residuals are linearised."""
        if self.nearby is None:
            return linearise
        return slopes_of(replace(self, match=self.nearby).residual(prior, labels))

    def nats(self, residual: Tensor) -> Tensor:
        """Minus the log likelihood (V,) of residuals (V, P), up to a constant; an unknown s is the best one."""
        if self.known:
            return 0.5 * residual.square().sum(1) / (1 + self.error)
        return 0.5 * residual.shape[1] * (residual.square().mean(1) + (EXACT + self.error)).log()


def likelihood(seen: Sequence[Observation], repeats: int = 1) -> Likelihood:
    """Of the victims `seen`, of one model and defence, all of them once a repeat.

    Raises:
        ValueError: a payload that does not fit the model (`matching.observed_step`).
    """
    first = seen[0]
    assert first.model is not None
    observed = torch.stack([observed_step(each) for each in seen])
    deviation = noise_deviations(seen)
    if deviation is None:
        weight = 1 / _layer_size(observed, [value.numel() for value in trainable(first.model).values()])
    else:
        weight = 1 / deviation
    return Likelihood(
        observed.repeat(repeats, 1),
        weight.repeat(repeats, 1),
        matcher_for(seen, restarts=repeats),
        first.spec.classes,
        deviation is not None,
        apart=moments_apart(seen),
    )


def _layer_size(observed: Tensor, sizes: list[int]) -> Tensor:
    """The root mean square (V, P) of the layer that each entry of the gradients (V, P) belongs to."""
    least = (WEAKEST * observed.square().mean(1, keepdim=True).sqrt()).clamp_min(1e-12)
    layers = [part.square().mean(1, keepdim=True).sqrt().expand_as(part) for part in torch.split(observed, sizes, 1)]
    return torch.maximum(torch.cat(layers, 1), least)
