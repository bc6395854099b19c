"""Which iterate an attack keeps and how it joins its restarts: by its own loss alone."""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable


class IterateTracker:
    """The kept iterate of every victim: the best by loss, or the latest snapshot.

    `snapshot_every` 0 keeps the best; k > 0 keeps the latest images whose iteration k divides, with the labels of the
    last iteration of all: GRNN's code saves pictures now and then, and prints the labels at its end. It is done once no
    victim's best loss has improved by `margin` for `patience` iterations; with patience 0, never.
    """

    def __init__(self, victims: int, snapshot_every: int, patience: int, margin: float) -> None:
        self.losses = torch.full((victims,), math.inf)
        self.images = torch.empty(0)
        self.logits = torch.empty(0)
        self.trace: list[Tensor] = []
        self._every, self._patience, self._margin = snapshot_every, patience, margin
        self._marked, self._stale = self.losses.clone(), 0

    def see(self, losses: Tensor, images: Tensor, logits: Tensor) -> None:
        """Take in one iteration: losses (V,), images (V, B, C, H, W), label logits (V, B, classes)."""
        iteration = len(self.trace)
        self.trace.append(losses)
        if iteration == 0:
            self.losses = losses.nan_to_num(math.inf)
            self.images, self.logits = images.nan_to_num(0.5), logits.clone()
            return
        chosen = labelled = losses < self.losses
        if self._every:
            labelled = torch.isfinite(losses)
            chosen = labelled & (iteration % self._every == 0)
        self.losses[chosen] = losses[chosen]
        self.images[chosen] = images[chosen]
        self.logits[labelled] = logits[labelled]

    def take(self) -> tuple[Tensors, PlainTable]:
        """What it keeps, after one iteration at least."""
        found = {"losses": self.losses, "images": self.images, "logits": self.logits, "marked": self._marked}
        strides = {"images": list(self.images.stride()), "logits": list(self.logits.stride())}
        return found | {"trace": torch.stack(self.trace)}, {"stale": self._stale, "strides": strides}

    def give(self, tensors: Tensors, facts: PlainTable, device: torch.device) -> None:
        """Keep what another one took, laid out in memory as it was: sums in another order have other bits."""
        for name, stride in facts["strides"].items():
            setattr(self, name, torch.empty_strided(tensors[name].shape, stride, device=device).copy_(tensors[name]))
        self.losses = tensors["losses"].to(device)
        self.trace = list(tensors["trace"].to(device))
        self._marked, self._stale = tensors["marked"], facts["stale"]

    def done(self) -> bool:
        """Whether the search has come to a plateau for every victim."""
        if not self._patience:
            return False
        best = self.losses.cpu()
        improved = best < self._marked - self._margin
        self._marked = torch.where(improved, best, self._marked)
        self._stale = 0 if bool(improved.any()) else self._stale + 1
        return self._stale >= self._patience


def merge_restarts(images: Tensor, logits: Tensor, log_mismatch: Tensor) -> tuple[Tensor, Tensor]:
    """One guess from R restarts of one victim: their mean, weighted by the inverse square of their mismatch.

    images (R, B, C, H, W), label logits (R, B, classes), log_mismatch (R,): log ||dg|| plus any prior. A restart that
    fits much better than the rest counts alone; restarts that fit equally well, each with errors of its own, are
    averaged, each batch first put in the order of the best one's. Returns images (B, C, H, W), logits (B, classes).
    """
    weights = (-2 * log_mismatch.nan_to_num(math.inf)).softmax(0)
    if not bool(torch.isfinite(weights).all()):  # no restart is finite: any of them is as good
        weights = torch.full_like(weights, 1 / len(weights))
    best = int(weights.argmax())
    orders = [_order_like(images[best], each) for each in images]
    mean = sum(weight * each[order] for weight, each, order in zip(weights, images, orders, strict=True))
    scores = sum(weight * each[order] for weight, each, order in zip(weights, logits, orders, strict=True))
    return torch.as_tensor(mean), torch.as_tensor(scores)


def _order_like(reference: Tensor, images: Tensor) -> Tensor:
    """The order of `images` (B, ...) in which they fit `reference` (B, ...) best."""
    distances = torch.cdist(reference.flatten(1), images.flatten(1)).square()
    return torch.from_numpy(linear_sum_assignment(distances.cpu().numpy())[1]).to(images.device)
