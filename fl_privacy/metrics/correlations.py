"""Distance correlations of a set of pairs as columns: every estimator, its floor, its n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fl_privacy.metrics.distance_correlation import Estimator, measure
from fl_privacy.metrics.sets import SET_METRICS, MatchedSet
from fl_privacy.seeding import stream

SMALL_N, LARGE_N = 32, 256
"""Rows of one distance correlation of images with reconstructions: the large number where there are as many."""
ESTIMATORS: Mapping[Estimator, str] = {"squared": "", "euclidean": "_euclidean", "unbiased": "_u"}
SHUFFLES = 5


@SET_METRICS.register("distance_correlation", needs=())
def correlations_of_set(matched: MatchedSet) -> dict[str, Any]:
    """Distance correlation of images with guesses: 'dcor_guess', n = 256 where there are as many, else 32."""
    n = LARGE_N if len(matched.guesses) >= LARGE_N else SMALL_N
    rng = stream(matched.seed, "dcor", "guesses")
    return correlations("dcor_guess", matched.truth, matched.guesses, rng, n)


def correlations(name: str, x: Tensor, z: Tensor, rng: torch.Generator, n: int) -> dict[str, float]:
    """Distance correlation of x (N, ...) with z (N, ...), every estimator with its floor, as columns; {} below n rows.

    `name` alone is the published estimator (squared distances), '_euclidean' NoPeek's, '_u' the bias-corrected square.
    """
    row: dict[str, float] = {}
    if len(x) < n:
        return row
    for estimator, suffix in ESTIMATORS.items():
        found = measure(x, z, rng, n, estimator, SHUFFLES)
        row |= {f"{name}{suffix}": found.value, f"{name}{suffix}_floor": found.floor}
        row[f"{name}{suffix}_error"] = found.standard_error
    return row | {f"{name}_n": n, f"{name}_batches": len(x) // n}
