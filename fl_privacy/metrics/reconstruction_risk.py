"""Reconstruction risk R: how near a reconstruction is in the data's own geometry, against the data's mean.

R hangs on the cut below which the covariance's directions are dropped: the same reconstructions of MNIST score 1.05
with a float32 pseudo-inverse and 0.19 with a float64 one. So cut, precision and rank travel with every value.

R counts every direction alike, in units of how much the data vary in it. A guess that has the few directions right in
which images differ visibly, and errs a little where they hardly differ, is farther than the mean, which errs by exactly
one unit everywhere: R is below 1 although the picture is recognised. `closer_truths` tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.metrics.base import check_shapes

CHUNK = 10_000
RANKED = 500
"""Guesses that are compared with every truth at once."""


@dataclass(frozen=True)
class Factorisation:
    """A covariance, factorised once: `mean` (D,) and `whitening` W (D, rank), so that MD(a, b) = |(a - b) W|.

    `rtol`: directions with an eigenvalue of at most rtol times the largest were dropped. `shrinkage`: the share of the
    covariance that was replaced by a multiple of the identity with the same trace.
    """

    mean: Tensor
    whitening: Tensor
    rtol: float
    shrinkage: float

    @property
    def rank(self) -> int:
        return self.whitening.shape[1]

    @property
    def label(self) -> str:
        """What has to stand beside every R: 'float32, rtol 1.2e-04, rank 424 of 1024'."""
        shrunk = f", shrinkage {self.shrinkage:g}" if self.shrinkage else ""
        precision = str(self.mean.dtype).removeprefix("torch.")
        return f"{precision}, rtol {self.rtol:.1e}{shrunk}, rank {self.rank} of {len(self.mean)}"


@dataclass(frozen=True)
class Risk:
    """R over a set: `mean` is equation 6, infinite as soon as one sample is `exact`; `finite_mean` leaves those out."""

    mean: float
    finite_mean: float
    median: float
    exact: int
    samples: int
    label: str

    def __str__(self) -> str:
        exact = f"; {self.exact} of {self.samples} exact, R of the rest {self.finite_mean:.3f}" if self.exact else ""
        return f"R = {self.mean:.3f} ({self.label}{exact})"


def factorise(
    data: Tensor, rtol: float | None = None, dtype: torch.dtype = torch.float32, shrinkage: float = 0.0
) -> Factorisation:
    """Mean and whitening of data (N, ...), flattened to (N, D); any unit.

    The covariance (N - 1 in the denominator) is summed in float64 and cast to `dtype`, in which it is factorised.
    `rtol=None` is the default cut of torch.linalg.pinv, D times the precision of `dtype`: with float32 this is the
    published measure. A well-posed one states `rtol`, or a `shrinkage` in (0, 1].

    Raises:
        ValueError: fewer than two samples, a setting out of range, or data that do not vary or are not finite.

    Source: Malekzadeh and Gündüz, equations 5 and 6, and main.py of their code.
    """
    if len(data) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, not {len(data)}")
    if not 0 <= shrinkage <= 1 or (rtol is not None and not 0 <= rtol < 1):
        raise ValueError(f"shrinkage must be in [0, 1] and rtol in [0, 1), not {shrinkage} and {rtol}")
    mean, covariance = _moments(data.flatten(1))
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("the data have NaN or infinite values, and R is undefined")
    dimension = len(mean)
    if shrinkage:
        ridge = shrinkage * covariance.diagonal().mean()
        covariance = (1 - shrinkage) * covariance
        covariance.diagonal().add_(ridge)
    cut = dimension * torch.finfo(dtype).eps if rtol is None else rtol
    values, vectors = torch.linalg.eigh(covariance.to(dtype))
    kept = values > cut * values[-1]
    if not bool(kept.any()):
        raise ValueError("the data do not vary: every sample equals the mean, and R is undefined")
    return Factorisation(mean.to(dtype), vectors[:, kept] * values[kept].rsqrt(), float(cut), shrinkage)


def _moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of (N, D) in float64, in chunks: a float64 copy of a data set is large."""
    parts = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(data)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=data.device)
    for part in parts:
        centred = part.double() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / (len(data) - 1)


def risk_per_sample(factors: Factorisation, guess: Tensor, truth: Tensor) -> Tensor:
    """MD(truth, mean) / MD(truth, guess) for each of (N, ...) samples: (N,), 1 for a guess as good as the mean.

    Infinite where the guess equals the truth in every kept direction; 1 where guess, truth and mean all coincide.
    Any unit, but the same one for the factorised data, the guess and the truth.

    Raises:
        ValueError: two shapes, samples of another size than the factorised ones, or a value that is not finite.
    """
    _check(factors, guess, truth)
    dtype = factors.mean.dtype
    flat_guess, flat_truth = guess.flatten(1).to(dtype), truth.flatten(1).to(dtype)
    to_mean = ((flat_truth - factors.mean) @ factors.whitening).norm(dim=1)
    to_guess = ((flat_truth - flat_guess) @ factors.whitening).norm(dim=1)
    return torch.where((to_mean == 0) & (to_guess == 0), torch.ones_like(to_mean), to_mean / to_guess)


def _check(factors: Factorisation, guess: Tensor, truth: Tensor) -> None:
    check_shapes(guess, truth)
    if guess.flatten(1).shape[1] != len(factors.mean):
        raise ValueError(f"R was factorised for {len(factors.mean)} values a sample, not {guess.flatten(1).shape[1]}")
    if not bool(torch.isfinite(guess).all() and torch.isfinite(truth).all()):
        raise ValueError("R of guesses or truths with NaN or infinite values is undefined")


def closer_truths(factors: Factorisation, guess: Tensor, truth: Tensor) -> Tensor:
    """The share of the other truths that lie nearer to each guess than its own does: (N,), 0 at best, .5 by chance.

    By the same distance as R, of which it takes the order alone: a guess loses nothing by an error that is as large to
    every image. Ties count half; NaN for a single sample. Any unit, as `risk_per_sample`.

    Raises:
        ValueError: as `risk_per_sample`.
    """
    _check(factors, guess, truth)
    dtype = factors.mean.dtype
    flat_guess, flat_truth = guess.flatten(1).to(dtype), truth.flatten(1).to(dtype)
    whitened = ((flat_guess - factors.mean) @ factors.whitening), ((flat_truth - factors.mean) @ factors.whitening)
    shares = []
    for start in range(0, len(truth), RANKED):
        distances = torch.cdist(whitened[0][start : start + RANKED], whitened[1])
        own = distances.diagonal(start)[:, None]
        # its own truth is one of the ties, and is no other
        before = (distances < own).sum(1) + ((distances == own).sum(1) - 1) / 2
        shares.append(before / (len(truth) - 1) if len(truth) > 1 else before.new_full(before.shape, torch.nan))
    return torch.cat(shares)


def reconstruction_risk(factors: Factorisation, guess: Tensor, truth: Tensor) -> Risk:
    """R of a whole set (N, ...), with all that is needed to read it.

    Source: Malekzadeh and Gündüz, equation 6.
    """
    if len(truth) == 0:
        raise ValueError("R of no samples is undefined")
    values = risk_per_sample(factors, guess, truth).double()
    finite = values[values.isfinite()]
    return Risk(
        mean=float(values.mean()),
        finite_mean=float(finite.mean()) if len(finite) else float("nan"),
        median=float(values.median()),
        exact=len(values) - len(finite),
        samples=len(values),
        label=factors.label,
    )
