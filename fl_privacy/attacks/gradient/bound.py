"""What could be known at best: the posterior's expected squared error, linearised at the truth or at a guess.

With images x = mean + T u, u ~ N(0, I), and a gradient whose Jacobian in u is J under noise of deviation s, the
posterior's covariance in u is (I + J^T J / s^2)^-1, and no estimator has a smaller expected error where the gradient is
linear. Elsewhere that is an estimate, not a strict bound: a curved gradient can tell more or less than its tangent.

Source: van Trees 1968, section 2.4, for the linear Gaussian case; as a bound on reconstruction Guo et al. 2022
(arXiv 2201.12383) and Kaissis et al. 2023 use its likelihood part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.inversion.gauss_newton import Linearised, linearise, posterior_solve
from fl_privacy.attacks.inversion.priors import Prior

SINGLE = 1e-14
"""The noise variance of a gradient without known noise: float32 leaves 1e-7 of each layer's size."""
DENSE = 256
"""Coordinates of a batch up to which the covariance is computed whole."""


def posterior_error(
    given: Likelihood,
    prior: Prior,
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    probes: int = 4,
    steps: int = 60,
    dense: int = DENSE,
) -> Tensor:
    """The expected squared error a pixel (V, B) of the best estimate of images (V, B, C, H, W) with labels (V, B).

    `prior` is that of these labels. Up to `dense` coordinates a batch the covariance is computed whole, which is exact
    for any noise. Beyond, its trace is estimated by `probes` random vectors, each solved for by at most `steps` of
    conjugate gradients: right under noise of about 0.01 of a layer's size and more, too optimistic under less.
    """
    u = prior.coordinates(images)
    linear = linearise(given.residual(prior, labels), u)
    variance = torch.full((len(u),), 1.0 if given.known else SINGLE).to(u)
    if u[0].numel() <= dense:
        return _whole(linear, prior, u, variance)
    pixels = images[0, 0].numel()
    error = torch.zeros(u.shape[:2]).to(u)
    for _ in range(probes):
        probe = torch.randn(images.shape, generator=rng).to(u)
        pulled = _transposed(prior, probe, u)
        error += (prior.linear(posterior_solve(linear, variance, pulled, steps)) * probe).flatten(2).sum(2)
    return (error / (probes * pixels)).clamp_min(0.0)


def bound_psnr(error: Tensor) -> Tensor:
    """Expected squared errors a pixel as PSNR in decibels, pixels in [0, 1]; infinite where nothing is left unknown."""
    return -10 * error.log10()


def _whole(linear: Linearised, prior: Prior, u: Tensor, variance: Tensor) -> Tensor:
    """The same by J, a column at a time, and dense algebra in double precision."""
    victims, batch, size = u.shape
    columns, spread = [], []
    for index in range(batch * size):
        unit = torch.zeros_like(u)
        unit.view(victims, -1)[:, index] = 1.0
        columns.append(linear.forward(unit).double() / variance.double().sqrt()[:, None])
        spread.append(prior.linear(unit).flatten(2).double())
    jacobian, images = torch.stack(columns, 2), torch.stack(spread, 3)  # (V, P, Bk), (V, B, pixels, Bk)
    # not by J^T J: beside the 1e14 of a gradient without noise, rounding hides the prior's 1 where J has no full rank
    prior_rows = torch.eye(batch * size, dtype=torch.float64, device=u.device).expand(victims, -1, -1)
    factor = torch.linalg.qr(torch.cat([jacobian, prior_rows], 1), mode="r").R
    solved = torch.linalg.solve_triangular(factor.mT.unsqueeze(1), images.mT, upper=False)
    error: Tensor = solved.square().sum((2, 3)) / images.shape[2]
    return error.to(u)


def _transposed(prior: Prior, images: Tensor, u: Tensor) -> Tensor:
    """T^T of images (V, B, C, H, W): coordinates like `u`."""
    at = torch.zeros_like(u, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(prior.linear(at), at, images)[0]
