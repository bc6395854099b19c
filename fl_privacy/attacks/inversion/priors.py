"""What an attacker believes of images before it has seen a message: x = mean + T u, u ~ N(0, I), all components.

In the coordinates u every direction is as likely as any other, so that the penalty |u|^2 / 2 is the prior, and an
optimiser sees it without the stretch of a natural image's spectrum.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.attacks.kept import Kept
from fl_privacy.observation import Images

EXPONENT = 2.2  # variance ~ frequency^-2.2: natural images
PIXEL_VARIANCE = 0.06
CHANNEL_CORRELATION = 0.85
LEAST_DEVIATION = 1e-3  # in units of the base prior's; images that are all alike would give 0, which has no inverse
LEAST_OF_A_CLASS = 2
KEPT = 2  # priors: 5,000 images of CIFAR-10 make one of 140 MB in many seconds


class Prior(ABC):
    """A Gaussian over images (C, H, W); coordinates have as many components, k, as an image has pixels."""

    mean: Tensor

    @abstractmethod
    def linear(self, u: Tensor) -> Tensor:
        """T u: (..., k) to (..., C, H, W)."""

    @abstractmethod
    def inverse(self, difference: Tensor) -> Tensor:
        """T^-1 d: (..., C, H, W) to (..., k)."""

    @abstractmethod
    def volume(self) -> Tensor:
        """log |det T|, the smaller the surer the prior is: one number, or one an image where these have their own."""

    def images(self, u: Tensor) -> Tensor:
        """Coordinates (..., k) to images (..., C, H, W), which may leave [0, 1]."""
        return self.mean + self.linear(u)

    def coordinates(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) to their coordinates (..., k)."""
        return self.inverse(images - self.mean)

    def of(self, labels: Tensor) -> Prior:
        """The prior of images with these labels (...): the same for all where it knows no classes."""
        return self


@dataclass(frozen=True)
class Spectrum(Prior):
    """Independent DCT coefficients: `mean` (C, H, W), `deviation` (H, W), `channels` (C, C) a Cholesky factor.

    `rows` (H, H) and `columns` (W, W) are orthonormal DCT matrices, a frequency a row.
    """

    mean: Tensor
    deviation: Tensor
    channels: Tensor
    rows: Tensor
    columns: Tensor

    def linear(self, u: Tensor) -> Tensor:
        return self.pixels(self.deviation * u.reshape(*u.shape[:-1], *self.mean.shape))

    def inverse(self, difference: Tensor) -> Tensor:
        return (self.coefficients(difference) / self.deviation).flatten(-3)

    def volume(self) -> Tensor:
        channels, height, width = self.mean.shape
        return channels * self.deviation.log().sum() + height * width * self.channels.diagonal().log().sum()

    def pixels(self, coefficients: Tensor) -> Tensor:
        """Uncorrelated channels' DCT coefficients to pixels, (..., C, H, W) both."""
        mixed = (self.channels @ coefficients.flatten(-2)).reshape_as(coefficients)
        out: Tensor = self.rows.T @ mixed @ self.columns
        return out

    def coefficients(self, pixels: Tensor) -> Tensor:
        """Pixels to uncorrelated channels' DCT coefficients, (..., C, H, W) both."""
        mixed = self.rows @ pixels @ self.columns.T
        out: Tensor = torch.linalg.solve_triangular(self.channels, mixed.flatten(-2), upper=False)
        return out.reshape_as(pixels)


@dataclass(frozen=True)
class Corrected(Prior):
    """Another prior `base`, corrected along the `directions` (k, r) in which images of a sample differ from it.

    Deviations are `scales` (r,) along them and `rest` everywhere else, in units of the base's.
    """

    base: Prior
    mean: Tensor
    directions: Tensor
    scales: Tensor
    rest: float

    def linear(self, u: Tensor) -> Tensor:
        along = (u @ self.directions) * (self.scales - self.rest)
        return self.base.linear(self.rest * u + along @ self.directions.T)

    def inverse(self, difference: Tensor) -> Tensor:
        v = self.base.inverse(difference)
        along = (v @ self.directions) * (1 / self.scales - 1 / self.rest)
        return v / self.rest + along @ self.directions.T

    def volume(self) -> Tensor:
        left = self.directions.shape[0] - self.directions.shape[1]
        return self.base.volume() + self.scales.log().sum() + left * math.log(self.rest)


@dataclass(frozen=True)
class ByClass(Prior):
    """A prior a class; `everyone` serves where no label is given, and the classes that have none of their own."""

    everyone: Prior
    classes: Mapping[int, Prior]

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.everyone.mean

    def linear(self, u: Tensor) -> Tensor:
        return self.everyone.linear(u)

    def inverse(self, difference: Tensor) -> Tensor:
        return self.everyone.inverse(difference)

    def volume(self) -> Tensor:
        return self.everyone.volume()

    def of(self, labels: Tensor) -> Prior:
        return _Labelled(self, labels)


class _Labelled(Prior):
    """The class prior of images whose labels are given: coordinates (*labels.shape, k)."""

    def __init__(self, prior: ByClass, labels: Tensor) -> None:
        self._members = [
            (labels == label, prior.classes.get(int(label), prior.everyone)) for label in torch.unique(labels).tolist()
        ]
        self.mean = self._scatter([own.mean.expand(int(where.sum()), -1, -1, -1) for where, own in self._members])

    def linear(self, u: Tensor) -> Tensor:
        return self._scatter([own.linear(u[where]) for where, own in self._members])

    def inverse(self, difference: Tensor) -> Tensor:
        return self._scatter([own.inverse(difference[where]) for where, own in self._members])

    def volume(self) -> Tensor:
        return self._scatter([own.volume().expand(int(where.sum())) for where, own in self._members])

    def _scatter(self, parts: list[Tensor]) -> Tensor:
        place = torch.cat([where.flatten().nonzero().flatten() for where, _ in self._members])
        return torch.cat(parts)[place.argsort()].reshape(*self._members[0][0].shape, *parts[0].shape[1:])


_kept: Kept[Prior] = Kept(KEPT)


def power_law(shape: Sequence[int], device: torch.device | None = None) -> Spectrum:
    """Without any data: mean .5, total pixel variance .06, falling with frequency^-2.2, channels correlated by .85.

    Source: van der Schaaf and van Hateren 1996 (Vision Research 36), for the spectrum of natural images.
    """
    channels, height, width = shape
    variance = frequencies(shape).clamp_min(1.0) ** -EXPONENT
    variance *= PIXEL_VARIANCE * height * width / variance.sum()
    together = torch.full((channels, channels), CHANNEL_CORRELATION).fill_diagonal_(1.0)
    return Spectrum(
        torch.full(shape, 0.5, device=device),
        variance.sqrt().to(device),
        torch.linalg.cholesky(together).to(device),
        _dct(height).to(device),
        _dct(width).to(device),
    )


def frequencies(shape: Sequence[int]) -> Tensor:
    """The distance (H, W) of every DCT coefficient from the constant one, in half periods along the longer side."""
    _, height, width = shape
    longer = max(height, width)
    down, across = torch.arange(height) * (longer / height), torch.arange(width) * (longer / width)
    return (down[:, None].square() + across.square()).sqrt()


def public(images: Tensor, base: Prior | None = None) -> Prior:
    """Mean and covariance of the attacker's own images (N, C, H, W), shrunk towards `base`, or else the power law."""
    base = base or power_law(images.shape[1:], images.device)
    return corrected(base, images - images.mean(0), images.mean(0))


def public_by_class(owned: Images) -> ByClass:
    """Every class's own mean and covariance, shrunk towards what images of all classes have around their class's mean.

    Raises:
        ValueError: the images have no labels.
    """
    if owned.labels is None:
        raise ValueError("a prior per class needs the labels of the public images: use the prior 'public'")
    images, everyone = owned.inputs, public(owned.inputs)
    inside = {
        int(label): images[owned.labels == label]
        for label in torch.unique(owned.labels)
        if int((owned.labels == label).sum()) >= LEAST_OF_A_CLASS
    }
    if not inside:
        return ByClass(everyone, {})
    around = torch.cat([members - members.mean(0) for members in inside.values()])
    pooled = corrected(power_law(images.shape[1:], images.device), around, images.mean(0))
    return ByClass(
        everyone,
        {c: corrected(pooled, members - members.mean(0), members.mean(0), 1.0) for c, members in inside.items()},
    )


def of_owner(owned: Images, by_class: bool) -> Prior:
    """`public`, or `public_by_class`, of an attacker's own images, fitted once for all attacks and judgements.

    Raises:
        ValueError: as `public_by_class`.
    """
    tensors = [owned.inputs] if owned.labels is None else [owned.inputs, owned.labels]
    return _kept.of(str(by_class), tensors, lambda: public_by_class(owned) if by_class else public(owned.inputs))


def corrected(base: Prior, differences: Tensor, mean: Tensor, level: float | None = None) -> Corrected:
    """`base` with the covariance of `differences` (N, C, H, W) from their mean, by linear shrinkage in its coordinates.

    It shrinks to `level` times the covariance of the base; without a level, to the multiple that has the same trace.

    Source: Ledoit and Wolf 2004 (Journal of Multivariate Analysis 88), lemma 3.3: the target there is a multiple of the
    identity, which in the base's coordinates is the base itself.
    """
    z = base.inverse(differences)
    count, size = z.shape
    if count < size:
        values, vectors = torch.linalg.eigh(z @ z.T / count)
        kept = values > 1e-6 * values.max().clamp_min(1e-30)
        values = values[kept]
        directions = z.T @ vectors[:, kept] / (values * count).sqrt()
    else:
        values, directions = torch.linalg.eigh(z.T @ z / count)
        values = values.clamp_min(0.0)
    total, squares = float(values.sum()), float(values.square().sum())
    level = total / size if level is None else level
    scatter = squares - 2 * level * total + size * level**2
    error = (float(z.square().sum(1).square().mean()) - squares) / count
    # two images around their mean are one direction, whose error cannot be seen from within: 2 / n at least
    shrinkage = min(1.0, max(error / scatter, 2 / count)) if scatter > 0 else 1.0
    rest = max(math.sqrt(shrinkage * level), LEAST_DEVIATION)
    scales = ((1 - shrinkage) * values + shrinkage * level).sqrt().clamp_min(LEAST_DEVIATION)
    return Corrected(base, mean, directions, scales, rest)


def _dct(size: int) -> Tensor:
    """The orthonormal DCT-II (size, size), a frequency a row."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size
    basis = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * place) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()
