"""The head's gradient of a batch taken apart: every image's logits, and so its features, from one sum over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jacfwd, vmap

WEIGHTS = torch.logspace(2, 7, 11, dtype=torch.float64).tolist()
"""By what the equations count against the prior, one after the other: loosely first, at last as float32 holds them."""
STEPS = 20
REPEATS = 8


@dataclass(frozen=True)
class HeadEquations:
    """What the gradient of z = weight h + bias (C, F) says of B images with `labels` (B,); all in float64.

    With D = (softmax(T) - Y) / B for logits T (B, C), the gradient is dL/dW = D^T H and dL/db = D^T 1. H W^T + b = T
    leaves, of T alone, D^T T = dL/dW W^T + dL/db b^T, D^T 1 = dL/db, and the rows of D in the span of the gradient's
    columns.

    Source: ours; the rank argument is that of Dimitrov et al. 2024, SPEAR (arXiv 2403.03945).
    """

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    labels: Tensor

    def slope(self, logits: Tensor) -> Tensor:
        """D (B, C)."""
        truth = F.one_hot(self.labels, logits.shape[1]).to(logits)
        return (logits.softmax(1) - truth) / len(self.labels)

    def residual(self) -> Callable[[Tensor], Tensor]:
        """The equations' differences as a function of T, each relative to what it should be."""
        product = self.weight_gradient @ self.weight.T + self.bias_gradient[:, None] * self.bias
        size = product.norm().clamp_min(1e-30)
        rank = min(len(self.labels), len(self.bias) - 1)
        outside = torch.linalg.svd(torch.cat([self.weight_gradient, self.bias_gradient[:, None]], 1)).U[:, rank:]

        def differences(logits: Tensor) -> Tensor:
            d = self.slope(logits)
            parts = ((d.T @ logits - product) / size, d.sum(0) - self.bias_gradient, d @ outside * len(self.labels))
            return torch.cat([part.flatten() for part in parts])

        return differences


def factor_head(
    equations: HeadEquations,
    examples: Tensor,
    starts: Tensor,
    exact: float = 1e7,
    weights: Sequence[float] = tuple(WEIGHTS),
) -> tuple[Tensor, float]:
    """The logits (B, C) that explain the head's gradient best, and their loss, by searches from `starts` (S, B, C).

    Minimises |exact residual|^2 + the distance of the logits from those of `examples` (N, C), in their deviations, by
    Levenberg-Marquardt; the equations count with `weights`, one after the other, and at last with `exact`, one over
    their error: from a start drawn at random many weights are needed, from a good guess few. The loss is of the order
    of B C to 100 B C where the search has succeeded, and of labels that are wrong beyond 10^4 B C.
    """
    mean, deviation = examples.mean(0), examples.std(0).clamp_min(1e-9)
    differences = equations.residual()
    x, losses = starts, torch.full((len(starts),), torch.inf, dtype=starts.dtype)
    for weight in [w for w in weights if w < exact] + [exact]:

        def residual(logits: Tensor, weight: float = weight) -> Tensor:
            return torch.cat([weight * differences(logits), ((logits - mean) / deviation).flatten()])

        before = torch.inf
        for _ in range(REPEATS):
            x, losses = levenberg_marquardt(residual, x, STEPS)
            now = float(losses.min())
            if now >= 0.99 * before:
                break
            before = now
    best = int(losses.nan_to_num(torch.inf).argmin())
    return x[best], float(losses[best])


def levenberg_marquardt(residual: Callable[[Tensor], Tensor], starts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Minimise |residual(x)|^2 from each of `starts` (S, ...): where each ended, and its sum of squares (S,).

    Each start has a damping of its own, which falls after a step that helped and rises after one that did not.
    """
    shape = starts.shape[1:]
    x = starts.flatten(1).clone()
    value_of = vmap(lambda flat: residual(flat.view(shape)))
    slope_of = vmap(jacfwd(lambda flat: residual(flat.view(shape))))
    value, slope = value_of(x), slope_of(x)
    loss, damping = value.square().sum(1), torch.full((len(x),), 1e-2, dtype=x.dtype)
    for _ in range(steps):
        normal = slope.mT @ slope
        diagonal = normal.diagonal(dim1=1, dim2=2)
        floor = 1e-12 * diagonal.amax(1, keepdim=True)
        damped = normal + torch.diag_embed(damping[:, None] * torch.maximum(diagonal, floor))
        factor, failed = torch.linalg.cholesky_ex(damped)
        step = -torch.cholesky_solve(slope.mT @ value[..., None], factor)[..., 0]
        candidate = x + step.nan_to_num(0.0, 0.0, 0.0)
        reached = value_of(candidate)
        after = reached.square().sum(1).nan_to_num(torch.inf)
        better = (after < loss) & (failed == 0)
        x = torch.where(better[:, None], candidate, x)
        value, loss = torch.where(better[:, None], reached, value), torch.where(better, after, loss)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-12, 1e12)
        if bool(better.any()):
            slope = slope.clone()
            slope[better] = slope_of(x[better])
    return x.view(starts.shape), loss
