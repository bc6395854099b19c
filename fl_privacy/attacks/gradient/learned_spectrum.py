"""A power-law prior that learns from the victims themselves: their mean image and their spectrum, by stochastic EM."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.inversion.gauss_newton import Linearise, Residual, linearise, posterior_solve
from fl_privacy.attacks.inversion.priors import Spectrum, frequencies

DRAW_STEPS = 30
PSEUDO = 2.0
"""Coefficients of the base prior that each ring of frequencies counts beside those of the victims."""


def relearned(base: Spectrum, now: Spectrum, best: Tensor, sample: Tensor) -> Spectrum:
    """`base` with the mean and the spectrum of N images, of which the posterior under `now` is known.

    `best` (N, k) are the images' most probable coordinates and `sample` (N, k) one draw from the posterior each. The
    spectrum changes by one factor a ring of frequencies, the draws' mean square, so that what the gradients do not tell
    keeps the variance that it had. The mean moves from the base's by as much as the images agree, ring by ring: the
    square of the draws' mean is (t + 1 / N) times their variance, and t says how far they are alike.

    Source: Dempster, Laird and Rubin 1977 (JRSS B 39), with draws in the E step: Celeux and Diebolt 1985.
    """
    count, channels = len(best), base.mean.shape[0]
    known, drawn = (now.coefficients(now.images(u) - base.mean) for u in (best, sample))
    distance = frequencies(tuple(base.mean.shape)).to(base.mean.device)
    ring = distance.round().long()
    alike = _pooled((drawn.mean(0).square() / now.deviation.square()).mean(0), ring)[ring] - 1 / count
    alike = alike.clamp_min(0.0)
    mean = known.mean(0) * alike / (alike + 1 / count)
    spread = (drawn - mean).square().mean((0, 1)) / base.deviation.square()
    weight = count * channels * torch.bincount(ring.flatten())[ring]
    factor = (weight * _pooled(spread, ring)[ring] + PSEUDO) / (weight + PSEUDO)
    return replace(base, mean=base.mean + base.pixels(mean), deviation=base.deviation * factor.sqrt())


def posterior_draw(
    residual: Residual, u: Tensor, given: Likelihood, rng: torch.Generator, linear_of: Linearise = linearise
) -> Tensor:
    """One draw (V, B, k) from the posterior, linearised at its mode u: the mode plus the answer to random errors.

    Source: Papandreou and Yuille 2010 (NeurIPS), sampling by local perturbations.
    """
    linear = linear_of(residual, u)
    variance = torch.ones(len(u)).to(u) if given.known else linear.residual.square().mean(1).clamp_min(given.floor)
    errors = torch.randn(linear.residual.shape, generator=rng).to(u) / variance.sqrt()[:, None]
    right = linear.backward(errors) + torch.randn(u.shape, generator=rng).to(u)
    return u + posterior_solve(linear, variance, right, DRAW_STEPS, 1e-2)


def _pooled(values: Tensor, group: Tensor) -> Tensor:
    """The mean (G,) of values (H, W) over each group of indices (H, W)."""
    flat = group.flatten()
    return torch.bincount(flat, values.flatten()) / torch.bincount(flat).clamp_min(1)
