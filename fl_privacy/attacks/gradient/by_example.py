"""What a client sends whose defence acts on each example's gradient, as an adversary simulates it."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.matching import PartialSlope, Release
from fl_privacy.observation import KnownDefence, Tensors


def by_example(release: Release, defence: KnownDefence | None, batch: int) -> Release:
    """`release` of a client with `batch` examples that computes its slopes as the defence wants them.

    An example after the other, so that each slope is one of a batch of one, whatever the model; where no member of the
    chain acts on examples, `release` itself.
    """
    if not defence or not defence.by_example:
        return release

    def released(weights: Tensors, slope: PartialSlope) -> Tensors:
        def mean(now: Tensors, part: Tensor | None) -> Tensors:
            chosen = torch.arange(batch) if part is None else part
            each = [slope(now, example) for example in torch.split(chosen, 1)]
            return defence.mean_of_examples({name: torch.stack([g[name] for g in each]) for name in now})

        return release(weights, mean)

    return released
