"""Labels read from what a client sends back in U-shaped split training: the gradients of the server's outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS, RESTARTS = 50, 8


def loudness(gradients: Tensor) -> Tensor:
    """The norm (N,) of every example's gradient (N, ...): the rarer class of two is the louder one.

    A model that mostly says one class is more often wrong about the other, and a wrong answer has the larger gradient.

    Source: Li et al. 2022 (ICLR, arXiv 2102.08504), section 3.2, the norm attack on two-party split learning.
    """
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return norms


def labels_by_direction(gradients: Tensor, known: Tensor, known_labels: Tensor) -> Tensor:
    """The labels (N,) of gradients (N, ...): that of the known one (K, ...) whose direction is nearest.

    Of a linear head W and cross entropy a gradient is W^T (p - y): while p is alike for all, its direction is y's.

    Source: Li et al. 2022, section 3.2, the direction attack, with a known example a class in place of one in all.
    """
    sought, given = F.normalize(gradients.flatten(1)), F.normalize(known.flatten(1))
    nearest: Tensor = known_labels[(sought @ given.T).argmax(1)]
    return nearest


def clusters_by_direction(gradients: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """Groups (N,), numbered 0 to classes - 1, of gradients (N, ...) by direction: labels up to their names.

    The best of a few runs of k-means on the sphere, by its own loss, each from k-means++'s seeds.

    Source: Dhillon and Modha 2001 (Machine Learning 42), spherical k-means.
    """
    directions = F.normalize(gradients.flatten(1))
    best, most = torch.zeros(len(directions), dtype=torch.long), -float("inf")
    for _ in range(RESTARTS):
        centres = _seeds(directions, classes, rng)
        for _ in range(ROUNDS):
            found = (directions @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, found, directions)
            empty = sums.norm(dim=1) == 0
            moved = torch.where(empty[:, None], centres, F.normalize(sums))
            if torch.equal(moved, centres):
                break
            centres = moved
        closeness = directions @ centres.T
        if float(closeness.amax(1).sum()) > most:
            best, most = closeness.argmax(1), float(closeness.amax(1).sum())
    return best


def _seeds(directions: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` of the directions (N, D), each drawn by its distance from those before."""
    chosen = [int(torch.randint(len(directions), (), generator=rng))]
    while len(chosen) < count:
        distance = (1 - (directions @ directions[chosen].T).amax(1)).clamp_min(0) + 1e-12
        chosen.append(int(torch.multinomial(distance.cpu(), 1, generator=rng)))
    return directions[chosen]
