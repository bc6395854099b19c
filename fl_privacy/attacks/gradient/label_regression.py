"""Labels from a gradient of any model and under any known noise: which classes' average gradients add up to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.matching import Matcher

SWAPS = 100


def regress_labels(
    match: Matcher, images: Tensor, observed: Tensor, deviation: Tensor | None, classes: int, batch: int
) -> Tensor:
    """The labels (V, batch) int64, sorted, that explain the gradients `observed` (V, P) best.

    `images` (N, C, H, W) are the attacker's, or drawn from its prior; `match` takes each of them as a victim. A class's
    gradient is known only up to how it varies over images, so that each entry of P is weighted by one over that
    variance plus the noise `deviation` (P,) squared: without noise the head's bias decides, whose gradient hardly
    depends on the image, and under noise all that a label moves has its say. Counts are added one by one where each
    helps most, then swapped.
    """
    mean, variance = _class_gradients(match, images, classes)
    noise = torch.zeros_like(variance) if deviation is None else deviation.square()
    spread = variance / batch + noise
    weight = 1 / spread.clamp_min(1e-6 * float(spread.mean())).clamp_min(1e-30)
    weighted = mean * weight / batch
    pull, gram = observed @ weighted.T, weighted @ mean.T / batch
    return torch.stack([_counts(each, gram, batch) for each in pull]).to(observed.device)


def _class_gradients(match: Matcher, images: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean gradient (classes, P) of each class over `images`, and the variance (P,) around it."""
    means, variance = [], torch.zeros(())
    for label in range(classes):
        targets = F.one_hot(torch.full((len(images), 1), label, device=images.device), classes).to(images)
        each = match(images.unsqueeze(1), targets).detach()
        means.append(each.mean(0))
        variance = variance + each.var(0) / classes
    return torch.stack(means), variance


def _counts(pull: Tensor, gram: Tensor, batch: int) -> Tensor:
    """Whole numbers n >= 0 of sum `batch` that minimise n G n / 2 - pull n, by greedy steps, as labels (batch,)."""
    counts = torch.zeros_like(pull)
    for _ in range(batch):
        counts[int((gram @ counts + 0.5 * gram.diagonal() - pull).argmin())] += 1
    for _ in range(SWAPS):
        slope = gram @ counts - pull
        # taking one of class i and adding one of class j
        change = slope[None] - slope[:, None] + 0.5 * (gram.diagonal()[None] + gram.diagonal()[:, None]) - gram
        change[counts == 0] = float("inf")
        best = int(change.argmin())
        out, into = divmod(best, len(pull))
        if not float(change[out, into]) < -1e-6 * float(gram.diagonal().abs().max()):
            break
        counts[out] -= 1
        counts[into] += 1
    return torch.repeat_interleave(torch.arange(len(pull), device=pull.device), counts.long())
