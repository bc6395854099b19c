"""Several detectors as one: the log likelihood ratio of vicious to honest, from models that a user trained itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKAGE = 0.1
"""The share of the common covariance that is replaced by its diagonal: a user trains few models."""


@dataclass(frozen=True)
class LikelihoodRatio:
    """log p(scores | vicious) - log p(scores | honest) of two normal laws with one covariance: linear in the scores."""

    names: tuple[str, ...]
    weights: Tensor
    offset: float

    def of(self, scores: Mapping[str, float]) -> float:
        """The log ratio of one model; above 0 it is more likely vicious, if both are as common.

        Raises:
            KeyError: a score that the ratio was fitted with is not there.
        """
        return float(_vector(scores, self.names) @ self.weights) + self.offset


def fitted_ratio(
    honest: Sequence[Mapping[str, float]], vicious: Sequence[Mapping[str, float]], names: Sequence[str]
) -> LikelihoodRatio:
    """The ratio in these scores of models of which the user knows what they are, because it trained them.

    Raises:
        ValueError: fewer than two models of either kind.

    Source: Neyman and Pearson 1933; Fisher's discriminant for the laws.
    """
    if min(len(honest), len(vicious)) < 2:
        raise ValueError(f"a ratio needs two models of each kind, not {len(honest)} honest, {len(vicious)} vicious")
    low, high = (torch.stack([_vector(scores, names) for scores in kind]) for kind in (honest, vicious))
    centred = torch.cat([low - low.mean(0), high - high.mean(0)])
    covariance = centred.T @ centred / (len(centred) - 2)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.diagonal().diag()
    # a score that never varies tells nothing, and must not divide by 0
    covariance.diagonal().add_(1e-12)
    weights = torch.linalg.solve(covariance, high.mean(0) - low.mean(0))
    return LikelihoodRatio(tuple(names), weights, -float((low.mean(0) + high.mean(0)) @ weights) / 2)


def _vector(scores: Mapping[str, float], names: Sequence[str]) -> Tensor:
    return torch.tensor([scores[name] for name in names], dtype=torch.float64)
