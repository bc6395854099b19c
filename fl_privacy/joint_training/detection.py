"""Is the classifier that a server handed out vicious? What a user can find out with a small labelled set."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.data.base import ImageSet
from fl_privacy.joint_training.losses import JointLoss, class_weights
from fl_privacy.joint_training.pair import outputs
from fl_privacy.joint_training.scores import targets
from fl_privacy.seeding import stream

HONEST = JointLoss(beta_r=0)


@dataclass(frozen=True)
class FineTuning:
    """How the received model is trained on with the loss that the server claims; Adam.

    `training_mode=False` keeps batch normalisation at the received statistics: then only the loss moves the model, and
    an honest one hardly at all. The paper does not say which it used.

    Raises:
        ValueError: a number out of range.
    """

    epochs: int = 5
    batch_size: int = 50
    learning_rate: float = 1e-3
    training_mode: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ValueError(f"epochs must be at least 1, batch_size at least 2 and learning_rate above 0: {self}")


def fine_tuned(
    model: nn.Module, labelled: ImageSet, settings: FineTuning, seed: int, claimed: JointLoss = HONEST
) -> nn.Module:
    """A copy of `model`, trained on the user's own `labelled` images with the `claimed` loss; the model stays as it is.

    Raises:
        ValueError: fewer images than one batch.
    """
    if len(labelled) < settings.batch_size:
        raise ValueError(f"{len(labelled)} labelled images are fewer than a batch of {settings.batch_size}")
    tuned = copy.deepcopy(model).train(settings.training_mode)
    device = next(tuned.parameters()).device
    labels = targets(claimed.task, labelled)
    weights = class_weights(labels).to(device) if claimed.task == "attributes" else None
    optimiser = torch.optim.Adam(tuned.parameters(), settings.learning_rate, fused=True)
    for epoch in range(settings.epochs):
        order = torch.randperm(len(labelled), generator=stream(seed, "fine-tuning", epoch))
        for chosen in order[: len(order) // settings.batch_size * settings.batch_size].view(-1, settings.batch_size):
            logits = tuned(labelled.images(chosen).to(device))
            optimiser.zero_grad()
            torch.autograd.backward(claimed.classification(logits, labels[chosen].to(device), weights))
            optimiser.step()
    return tuned.eval()


def similarity(first: Tensor, second: Tensor) -> float:
    """The mean cosine between two models' outputs (N, classes) for the same images: S, in [-1, 1].

    Source: Malekzadeh and Gündüz, equation 19.
    """
    return float(F.cosine_similarity(first.double(), second.double(), dim=1).mean())


def viciousness(
    model: nn.Module,
    labelled: ImageSet,
    test: Tensor,
    settings: FineTuning,
    seed: int,
    claimed: JointLoss = HONEST,
) -> float:
    """How far fine-tuning with the claimed loss moves the outputs for images `test` (N, C, H, W): 1 - S, in [0, 2].

    A model that was really trained with the claimed loss hardly moves. The model is a black box that can be trained on:
    neither its architecture nor its weights are looked at.

    Source: Malekzadeh and Gündüz, appendix I.2, equations 19 and 20 (they published no code for it).
    """
    tuned = fine_tuned(model, labelled, settings, seed, claimed)
    return 1 - similarity(outputs(model, test), outputs(tuned, test))


def output_entropy(logits: Tensor) -> float:
    """The mean entropy in bits of the softmax of outputs (N, classes): said to be higher for vicious models.

    Source: Malekzadeh and Gündüz, appendix C.
    """
    log = F.log_softmax(logits.double(), 1)
    return float(-(log.exp() * log).sum(1).mean() / math.log(2))


def threshold(honest: Sequence[float], false_positives: float = 0.0) -> float:
    """The score above which a model is called vicious: chosen on honest models only, of which at most this share is.

    Raises:
        ValueError: no honest score, or a share outside [0, 1).
    """
    if not honest or not 0 <= false_positives < 1:
        raise ValueError(f"a threshold needs honest scores and a share in [0, 1), not {len(honest)}, {false_positives}")
    ranked = sorted(honest, reverse=True)
    # the tolerance keeps 0.1 of 10 at 1 although 0.1 has no exact binary form
    return ranked[math.floor(false_positives * len(ranked) + 1e-9)]


def flagged(scores: Sequence[float], limit: float) -> float:
    """The share of `scores` above `limit`: the false-positive rate of honest models, the detection rate of others.

    NaN for no scores.
    """
    return sum(score > limit for score in scores) / len(scores) if scores else math.nan


def auroc(honest: Sequence[float], vicious: Sequence[float]) -> float:
    """The chance that a vicious model scores above an honest one, ties counting half; NaN without both.

    Source: Hanley and McNeil 1982 (the Mann-Whitney statistic).
    """
    if not honest or not vicious:
        return math.nan
    low, high = torch.tensor(honest, dtype=torch.float64), torch.tensor(vicious, dtype=torch.float64)
    difference = high[:, None] - low
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())


def auroc_interval(honest: Sequence[float], vicious: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """An interval of the AUROC by the score method: it has a width even where the models separate perfectly.

    A bootstrap does not: of ten honest and ten vicious models that never overlap, every draw gives 1.0.

    Source: Newcombe 2006, Statistics in Medicine 25, method 5; the variance is Hanley and McNeil's (1982) with the mean
    of the two sample sizes in place of each.
    """
    if not honest or not vicious:
        return math.nan, math.nan
    found, sizes = auroc(honest, vicious), (len(honest), len(vicious))
    z, extra = NormalDist().inv_cdf((1 + level) / 2), sum(sizes) / 2 - 1

    def inside(value: float) -> bool:
        spread = 1 + extra * (1 - value) / (2 - value) + extra * value / (1 + value)
        return (found - value) ** 2 <= z**2 * value * (1 - value) * spread / math.prod(sizes)

    return _edge(inside, found, 0.0), _edge(inside, found, 1.0)


def _edge(inside: Callable[[float], bool], within: float, without: float) -> float:
    """Where `inside` turns false between a value at which it holds and an end of the range, by bisection."""
    for _ in range(60):
        middle = (within + without) / 2
        within, without = (middle, without) if inside(middle) else (within, middle)
    return within
