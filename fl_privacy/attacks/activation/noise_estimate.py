"""The law and the loudness of additive noise that nobody granted, from releases and an adversary's own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import AdditiveNoise, GaussianNoise, LaplaceNoise, UniformNoise
from fl_privacy.observation import Observation
from fl_privacy.split.segments import ACTIVATION, SERVED_AT_ONCE

Law = Literal["laplace", "gaussian", "uniform"]

KURTOSIS: dict[Law, float] = {"laplace": 3.0, "gaussian": 0.0, "uniform": -1.2}
"""The excess kurtosis of each law."""
OWN_IMAGES = 2000  # of the adversary's: more change the estimate by less than the releases' own error
LEAST_IMAGES = 8
SIGNIFICANT = 4.0  # standard errors from which a difference of two variances counts as noise
AUDIBLE = 0.02
"""Of the activations' own variance: quieter noise is within what other images of one kind differ by, and costs nothing
to leave out."""
ALIKE = 1.5
"""Times the furthest that own activations are apart: releases that are no further apart have one tensor in common."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Additive noise of one law: its `deviation` in the activations' unit with a `standard_error`, and the `kurtosis`
    (excess) by which the `law` was told. A deviation of 0 says that none was heard."""

    law: Law
    deviation: float
    standard_error: float
    kurtosis: float

    @property
    def chain(self) -> Chain | None:
        """The defence of this law and scale, or None without noise."""
        if self.deviation == 0:
            return None
        kinds: dict[Law, tuple[type[AdditiveNoise], float]] = {
            "laplace": (LaplaceNoise, 0.5**0.5),
            "gaussian": (GaussianNoise, 1.0),
            "uniform": (UniformNoise, 3.0**0.5),
        }
        kind, scale = kinds[self.law]
        return Chain((kind(scale * self.deviation),))


def estimate_noise(released: Tensor, own: Tensor) -> NoiseEstimate:
    """The noise on activations `released` (N, ...), beside an adversary's `own` (M, ...) through the same segment.

    Two variances: that of the releases less that of clean activations, where clean ones hardly vary. Half of the own
    activations name the directions in which they vary most, which both lose (at most half of all); the other half says
    how much is left. The same difference of fourth cumulants, over the squared variance, tells the law. It is blind to
    anything but independent noise of one variance, and takes the private images to be of the kind of the own ones.

    Raises:
        ValueError: fewer than 8 own images.
    """
    released, own = released.flatten(1).double(), own[:OWN_IMAGES].flatten(1).double()
    if len(own) < LEAST_IMAGES:
        raise ValueError(
            f"noise is estimated beside activations of at least {LEAST_IMAGES} images of the adversary's own, and "
            f"there are {len(own)}: set public.count, or grant the defence"
        )
    first, second = own[::2], own[1::2]
    centre = first.mean(0)
    directions = _loudest(first - centre)
    noisy, clean = (_without(directions, part - centre) for part in (released, second))
    kept = 1 - directions.square().sum(1)  # (D,): of a coordinate's own noise, what is left in it
    size = kept.sum()
    (variance, error), (own_variance, own_error) = (_power(part, size) for part in (noisy, clean))
    found, standard_error = float(variance - own_variance), float((error**2 + own_error**2).sqrt())
    total = float((second - centre).square().mean())
    if found <= max(SIGNIFICANT * standard_error, AUDIBLE * total):
        return NoiseEstimate("gaussian", 0.0, standard_error, 0.0)
    left = clean.square().mean(0)
    # of few releases a coordinate's own variance is too rough to be squared: that of all together stands in
    fourth = _fourth_cumulant(noisy, left + found * kept) - _fourth_cumulant(clean, left)
    kurtosis = float(fourth.sum() / (found**2 * kept**4).sum())
    law = min(KURTOSIS, key=lambda name: abs(KURTOSIS[name] - kurtosis))
    deviation = found**0.5
    return NoiseEstimate(law, deviation, standard_error / (2 * deviation), kurtosis)


def overheard(seen: Sequence[Observation]) -> NoiseEstimate:
    """The noise on the releases `seen` of one segment, as whoever can query it and owns images of the kind hears it.

    Raises:
        ValueError: fewer than 8 own images.
    """
    return estimate_noise(torch.cat([each.payload[ACTIVATION] for each in seen]), own_activations(seen[0]))


@torch.no_grad()
def own_activations(seen: Observation) -> Tensor:
    """The activations (M, ...) of at most 2,000 of the adversary's own images, of whoever can query the segment."""
    assert seen.public is not None
    ask = seen.query or seen.model
    assert ask is not None
    device = seen.payload[ACTIVATION].device
    parts = torch.split(seen.public.inputs[:OWN_IMAGES], SERVED_AT_ONCE)
    return torch.cat([ask(part).to(device) for part in parts])


@torch.no_grad()
def shared_tensors(released: Tensor, own: Tensor) -> Tensor | None:
    """Which releases (N, ...) have a noise tensor in common: numbers (N,) from 0; None where there are no such groups.

    Where noise is one of a few tensors, they lie further apart than activations do: releases belong together that no
    gap parts which is wider than 1.5 times the most by which `own` activations (M, ...) differ. One group is none, and
    so are more than half as many as releases: then each has noise of its own (`estimate_noise`).
    """
    flat, own = released.flatten(1), own.flatten(1)
    near = torch.cdist(flat, flat) <= ALIKE * float(torch.cdist(own, own).max())
    group, before = torch.arange(len(flat), device=flat.device), None
    while before is None or not torch.equal(group, before):
        group, before = torch.where(near, group, len(flat)).amin(1), group
    first = group == torch.arange(len(flat), device=flat.device)  # a group has the number of its first
    return (first.cumsum(0) - 1)[group] if 1 < int(first.sum()) <= len(flat) / 2 else None


def _loudest(centred: Tensor) -> Tensor:
    """The directions (D, r), orthonormal, in which activations (M, D) vary most: at most half of all."""
    count, size = centred.shape
    if count < size:
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = values > 1e-9 * values[-1].clamp_min(1e-300)
        directions = centred.T @ (vectors[:, kept] / values[kept].sqrt())
    else:
        _, directions = torch.linalg.eigh(centred.T @ centred)
    loudest: Tensor = directions[:, max(0, directions.shape[1] - size // 2) :]
    return loudest


def _without(directions: Tensor, centred: Tensor) -> Tensor:
    return centred - (centred @ directions) @ directions.T


def _power(left: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of what is left (N, D) in `size` directions, and its standard error over images."""
    each = left.square().sum(1) / size
    return each.mean(), each.std() / len(each) ** 0.5 if len(each) > 1 else torch.zeros_like(size)


def _fourth_cumulant(left: Tensor, variance: Tensor) -> Tensor:
    """Of every coordinate (D,) of what is left (N, D), around zero, its variance (D,) being known."""
    cumulant: Tensor = left.pow(4).mean(0) - 3 * variance.square()
    return cumulant
