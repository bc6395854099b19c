"""Intervals of shares."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(hits: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of `hits` in `trials`, at `level`; hits need not be whole, where several share one.

    Raises:
        ValueError: no trial, or hits outside [0, trials].

    Source: Wilson 1927, Journal of the American Statistical Association 22.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"a share needs at least one trial and hits in [0, trials], not {hits} of {trials}")
    z, share = NormalDist().inv_cdf((1 + level) / 2), hits / trials
    middle = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, (middle - reach) / (1 + z**2 / trials)), min(1.0, (middle + reach) / (1 + z**2 / trials))
