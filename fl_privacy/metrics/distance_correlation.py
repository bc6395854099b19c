"""Distance correlation between two sets of rows: a differentiable loss, and a measurement with its floor beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["euclidean", "squared", "unbiased"]
LEAST_ROWS: dict[Estimator, int] = {"euclidean": 2, "squared": 2, "unbiased": 4}
ORDINARY = 512.0
"""A row's length, and its inverse, beyond which the eighth power of lengths below could leave float32."""


def distance_correlation(x: Tensor, z: Tensor, estimator: Estimator = "euclidean") -> Tensor:
    """Distance correlation of rows x (n, ...) with rows z (n, ...), differentiable in both: a scalar.

    'euclidean': the biased V-statistic, rooted, in [0, 1] (NoPeek's loss). 'squared': the same on squared distances,
    which is sqrt(linear CKA) and blind to all but linear dependence (the code of Titcombe et al.). 'unbiased': the
    bias-corrected estimate of the *square*, at most 1 and below zero for some independent samples. Rows that do not
    vary give 0. The biased two are far above zero for independent data at small n: see `measure`. Rows of any finite
    scale: it does not feel the unit.

    Raises:
        ValueError: the row counts differ or are too small for the estimator, or a value is NaN or infinite.

    Source: Szekely, Rizzo and Bakirov 2007 (V); Szekely and Rizzo 2014 (U); Vepakomma et al. 2020, section 3.
    """
    _check(x, z, estimator)
    return _ratio(*_centred(x, z, estimator), estimator)


@dataclass(frozen=True)
class DistanceCorrelation:
    """A measured distance correlation with what it takes to read it.

    `value` and `floor` are means over `batches` batches of `n` rows each; the floor is the same estimate with the pairs
    shuffled, so that nothing but the estimator's bias is left. `standard_error` is that of `value` over the batches,
    NaN for one batch.
    """

    value: float
    floor: float
    n: int
    batches: int
    standard_error: float
    estimator: Estimator


@torch.no_grad()
def measure(
    x: Tensor,
    z: Tensor,
    rng: torch.Generator,
    n: int = 128,
    estimator: Estimator = "euclidean",
    shuffles: int = 20,
) -> DistanceCorrelation:
    """Measure x (N, ...) against z (N, ...) in consecutive batches of `n` rows, in float64; a short last one drops.

    Raises:
        ValueError: fewer than `n` rows, too few rows for the estimator, or a value that is not finite.
    """
    if len(x) < n:
        raise ValueError(f"distance correlation at n = {n} needs that many rows, not {len(x)}: lower n and report it")
    _check(x[:n], z[:n], estimator)
    values, floors = [], []
    for rows, released in zip(torch.split(x, n), torch.split(z, n), strict=True):
        if len(rows) == n:
            a, b = _centred(rows.double(), released.double(), estimator)
            values.append(_ratio(a, b, estimator))
            for _ in range(shuffles):
                order = torch.randperm(n, generator=rng).to(b.device)
                floors.append(_ratio(a, b[order][:, order], estimator))
    found = torch.stack(values)
    error = float(found.std() / len(found) ** 0.5) if len(found) > 1 else float("nan")
    floor = float(torch.stack(floors).mean()) if floors else float("nan")
    return DistanceCorrelation(float(found.mean()), floor, n, len(found), error, estimator)


def _check(x: Tensor, z: Tensor, estimator: Estimator) -> None:
    if estimator not in LEAST_ROWS:
        raise ValueError(f"estimator takes one of {', '.join(LEAST_ROWS)}, not {estimator!r}")
    if len(x) != len(z):
        raise ValueError(f"distance correlation pairs row with row, but there are {len(x)} and {len(z)} rows")
    if len(x) < LEAST_ROWS[estimator]:
        raise ValueError(f"the '{estimator}' distance correlation needs {LEAST_ROWS[estimator]} rows, not {len(x)}")


def _centred(x: Tensor, z: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
    centre = _u_centre if estimator == "unbiased" else _double_centre
    return centre(_distances(x, estimator)), centre(_distances(z, estimator))


def _distances(rows: Tensor, estimator: Estimator) -> Tensor:
    """Pairwise distances (n, n) by one matrix product; their gradient at identical rows is zero."""
    rows = _ordinary(rows.flatten(1))
    # distances do not feel a shift, but |a|^2 + |b|^2 - 2ab cancels digits in proportion to the norms
    rows = _ordinary(rows - rows.mean(0).detach())
    norms = rows.square().sum(1)
    scale = norms[:, None] + norms[None]
    squared = scale - 2 * (rows @ rows.T)
    # below rounding it is a zero distance; without this mask sqrt's gradient there is infinite
    apart = squared > 8 * torch.finfo(rows.dtype).eps * scale.detach()
    apart.fill_diagonal_(False)
    if estimator == "squared":
        return torch.where(apart, squared, 0.0)
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def _ordinary(rows: Tensor) -> Tensor:
    """The rows (n, D) times a power of two that brings an extreme scale near 1; ordinary rows as they are.

    A power of two changes no digit, so that only what would overflow or vanish comes out otherwise.
    """
    largest = rows.detach().abs().max() if rows.numel() else rows.new_zeros(())
    if not bool(torch.isfinite(largest)):
        raise ValueError(
            "distance correlation of NaN or infinite values is undefined: look for a training that diverged"
        )
    limits = torch.finfo(rows.dtype)
    length = (largest * rows.shape[1] ** 0.5).clamp(limits.tiny, limits.max)
    if 1 / ORDINARY <= float(length) <= ORDINARY or not float(largest):
        return rows
    mantissa: Tensor = torch.frexp(length).mantissa
    factor: Tensor = mantissa / length
    return rows * factor


def _double_centre(d: Tensor) -> Tensor:
    return d - d.mean(0, keepdim=True) - d.mean(1, keepdim=True) + d.mean()


def _u_centre(d: Tensor) -> Tensor:
    n = len(d)
    centred = d - (d.sum(0, keepdim=True) + d.sum(1, keepdim=True)) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag_embed(centred.diagonal())


def _ratio(a: Tensor, b: Tensor, estimator: Estimator) -> Tensor:
    """The correlation of two centred distance matrices, rooted for the V-statistics; 0 where one of them is zero."""
    across, own = (a * b).sum(), a.square().sum() * b.square().sum()
    varies = own > 0
    squared = torch.where(varies, across / torch.where(varies, own, 1.0).sqrt(), 0.0)
    if estimator == "unbiased":
        return squared
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
