"""A few images that stand for many: many sets are sorted by class, so that their first images are no sample."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.seeding import stream


def class_sample(labels: Tensor, count: int) -> Tensor:
    """The positions (up to `count`,) of a sample of labels (N,): every class has its share; in a drawn order.

    The same images for every seed of an experiment, so that what is measured on them differs by nothing else. Shares
    are rounded to the largest remainders, ties by lot.
    """
    rng = stream(0, "sample")
    total = min(count, len(labels))
    members = [(labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))]
    exact = torch.tensor([len(each) * total / max(1, len(labels)) for each in members], dtype=torch.float64)
    shares = exact.floor().long()
    lots = torch.rand(len(members), generator=rng, dtype=torch.float64)
    order = sorted(range(len(members)), key=lambda label: (float(shares[label] - exact[label]), float(lots[label])))
    shares[order[: total - int(shares.sum())]] += 1
    drawn = [
        each[torch.randperm(len(each), generator=rng)[:share]]
        for each, share in zip(members, shares.tolist(), strict=True)
    ]
    chosen = torch.cat(drawn) if drawn else labels.new_empty(0)
    return chosen[torch.randperm(len(chosen), generator=rng)]
