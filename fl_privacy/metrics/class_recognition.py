"""Whether a class can be read in reconstructions, by a classifier that the evaluator trained on images of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.metrics.sets import SET_METRICS, MatchedSet
from fl_privacy.seeding import seeded, stream

JUDGE_STEPS, JUDGE_BATCH, JUDGE_STEP = 600, 64, 2e-3


@SET_METRICS.register("class_recognition", needs=("judge",))
def class_recognised(matched: MatchedSet) -> dict[str, Any]:
    """How often the judge sees the true class in the guess, and in the image itself, which is its ceiling.

    'class_recognised' and 'class_recognised_originals', both in [0, 1].
    """
    assert matched.judge is not None
    judge = matched.judge()
    return {
        "class_recognised": _right(judge, matched.guesses, matched.labels),
        "class_recognised_originals": _right(judge, matched.truth, matched.labels),
    }


def train_judge(judge: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """`judge` after a short training on images (N, C, H, W) and labels (N,) that no other party has; eval mode."""
    optimiser = torch.optim.Adam(judge.parameters(), JUDGE_STEP)
    rng = stream(seed, "reader")
    with seeded(seed, "reader"):
        for _ in range(JUDGE_STEPS):
            index = torch.randint(len(images), (JUDGE_BATCH,), generator=rng)
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(judge(images[index]), labels[index]))
            optimiser.step()
    return judge.eval()


@torch.no_grad()
def _right(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    found = torch.cat([judge(part) for part in torch.split(images, 500)])
    return float((found.argmax(1) == labels).float().mean())
