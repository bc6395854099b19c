"""Distance correlation as the published code computes it: a Python loop over pairs. For comparison only."""

import torch
from torch import Tensor


def pairwise_distances(rows: Tensor) -> Tensor:
    n = rows.size(0)
    distances = torch.empty(n, n)
    for i in range(n):
        for j in range(n):
            distances[i, j] = (rows[i] - rows[j]).square().sum()
    return distances


def centred(distances: Tensor) -> Tensor:
    return distances - distances.mean(0, keepdim=True) - distances.mean(1, keepdim=True) + distances.mean()


def distance_correlation_by_pairs(x: Tensor, z: Tensor) -> Tensor:
    """Squared distances, biased, rooted: x (n, ...) with z (n, ...).

    Source: TTitcombe/Model-Inversion-SplitNN, src/dpsnn/nopeek_loss.py.
    """
    a, b = centred(pairwise_distances(x)), centred(pairwise_distances(z))
    n = x.size(0)
    covariance = (a * b).sum().sqrt() / n
    own_x, own_z = a.square().sum().sqrt() / n, b.square().sum().sqrt() / n
    return covariance / (own_x * own_z).sqrt()
