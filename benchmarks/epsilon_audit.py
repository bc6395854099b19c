"""How much epsilon the outputs of a mechanism give away, from below."""

import math

import torch
from scipy.stats import beta
from torch import Tensor


def epsilon_found(made: Tensor, other: Tensor, delta: float, level: float = 0.05) -> float:
    """The largest lower bound on epsilon, at confidence 1 - level, from scores (n,) of two mechanisms' outputs.

    Half the scores choose the threshold, the other half are counted (Clopper and Pearson 1934): P(score > t) under one
    input is at most exp(epsilon) times that under the other, plus delta.
    """
    half = len(made) // 2
    thresholds = torch.cat([made[:half], other[:half]]).quantile(torch.linspace(0.5, 0.995, 100))
    rates = [(float((made[:half] > t).float().mean()), float((other[:half] > t).float().mean())) for t in thresholds]
    best = max(range(100), key=lambda i: math.log(max(rates[i][0] - delta, 1e-9) / (rates[i][1] + 2 / half)))
    hits, misses = (int((s[half:] > thresholds[best]).sum()) for s in (made, other))
    low = beta.ppf(level / 2, hits, half - hits + 1) if hits else 0.0
    high = beta.ppf(1 - level / 2, misses + 1, half - misses)
    return math.log(max(low - delta, 1e-12) / high)
