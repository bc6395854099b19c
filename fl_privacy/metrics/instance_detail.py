"""Which image of its class it is: what a guess tells where the class itself is sent, and so no secret."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.metrics.intervals import wilson
from fl_privacy.metrics.sets import SET_METRICS, MatchedSet
from fl_privacy.seeding import stream

CANDIDATES = 100
"""The most images of one class among which a guess's own is looked for."""


@SET_METRICS.register("instance_detail", needs=())
def instances_found(matched: MatchedSet) -> dict[str, Any]:
    """How often the private image that a guess is likest is its own, among at most 100 private ones of its class.

    'instance_right' in [0, 1], with the ends of its 95 % Wilson interval ('..._low', '..._high'); 'instance_chance',
    how often a guess is right that tells the class alone; 'instance_images', of how many images that was asked;
    'instance_candidates', the most among which one was looked for. {} where no class has two images. Alike is by the
    correlation of what differs from the class: guesses less their mean in the class, images less theirs, so that
    neither blur nor contrast count. Images that are equally like share the hit.
    """
    credits, chances, most = [], [], 0
    for index in _line_ups(matched.labels, matched.seed):
        likeness = _detail(matched.guesses[index]) @ _detail(matched.truth[index]).T
        first = likeness >= likeness.amax(1, keepdim=True)
        credits.append(first.diagonal() / first.sum(1))
        chances.append(torch.full((len(index),), 1 / len(index)))
        most = max(most, len(index))
    if not credits:
        return {}
    right, count = float(torch.cat(credits).double().mean()), sum(map(len, credits))
    low, high = wilson(right * count, count)
    return {
        "instance_right": right,
        "instance_right_low": low,
        "instance_right_high": high,
        "instance_chance": float(torch.cat(chances).double().mean()),
        "instance_images": count,
        "instance_candidates": most,
    }


def _line_ups(labels: Tensor, seed: int) -> Iterator[Tensor]:
    """Groups of 2 to 100 positions of one class, as equal in size as can be, drawn by `seed`; all images of the set."""
    for label in sorted(set(labels.tolist())):
        mine = (labels == label).nonzero().flatten()
        mine = mine[torch.randperm(len(mine), generator=stream(seed, "line-ups", label)).to(mine.device)]
        yield from (part for part in mine.tensor_split(math.ceil(len(mine) / CANDIDATES)) if len(part) > 1)


def _detail(images: Tensor) -> Tensor:
    """What differs from the mean of (N, C, H, W): (N, D) of unit length, 0 where nothing does."""
    flat = images.flatten(1).double()
    differing = flat - flat.mean(0)
    # a guess that is the same for all differs from its mean by rounding alone
    tells = differing.abs().amax(1, keepdim=True) > 1e-6
    return torch.where(tells, F.normalize(differing, dim=1), torch.zeros_like(differing))
