"""The one place where a guess meets the truth: matching, scores, controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fl_privacy.attacks.base import Attack
from fl_privacy.metrics import METRICS, MatchedSet, Metric, SetMetric, label_accuracy
from fl_privacy.metrics.base import check_images, check_shapes
from fl_privacy.observation import ChannelName, Images, Observation, Reconstruction
from fl_privacy.seeding import stream

ORDERED = frozenset({ChannelName.ACTIVATION, ChannelName.OUTPUT})
"""Channels whose messages have a row an image, so that a guess's order is the truth's."""

BLOCK = 1_000_000
"""Pixels that are compared at once when a batch is matched."""


@dataclass(frozen=True)
class Truth:
    """All examples that entered one message: inputs (N, C, H, W) in [0, 1] and labels (N,). No attack sees it.

    In whatever mini-batches a client took them, in the order of its first epoch; of a mean over clients, the examples
    of one after those of another.
    """

    inputs: Tensor
    labels: Tensor

    @classmethod
    def of_clients(cls, truths: Sequence[Truth]) -> Truth:
        """The truth behind a mean over these clients, in their order."""
        if len(truths) == 1:
            return truths[0]
        return cls(torch.cat([each.inputs for each in truths]), torch.cat([each.labels for each in truths]))


@dataclass(frozen=True)
class Score:
    """How close one guess came: `images` holds one value an image by metric, in the truth's order.

    NaN stands where nothing was recovered: for every image, where the guess has none; for the accuracy of its labels,
    where it has none, and then `label_correct` is False throughout. `unmeasured` says of each metric that could not be
    computed why, such as SSIM of images one pixel high; its values are NaN.
    """

    images: Mapping[str, Tensor]
    label_accuracy: float
    label_correct: Tensor
    loss_at_guess: float
    loss_at_truth: float
    unmeasured: Mapping[str, str] = field(default_factory=dict)


def align(guess: Reconstruction, truth: Truth) -> Reconstruction:
    """The guess with its images (and labels) in the order that fits the truth best: least total squared error.

    A batch's order cannot be read from an averaged gradient, so index i of a guess means nothing until it is assigned.
    Labels without images are put where most of them are right.

    Raises:
        ValueError: as `metrics.base.check_images`.
    """
    if guess.inputs is not None:
        check_images(guess.inputs, truth.inputs)
        pairs = _squared_errors(guess.inputs.flatten(1), truth.inputs.flatten(1))
    elif guess.labels is not None:
        check_shapes(guess.labels, truth.labels)
        pairs = (guess.labels[:, None] != truth.labels[None]).float()
    else:
        return guess
    rows, columns = linear_sum_assignment(pairs.cpu().numpy())
    order = torch.from_numpy(rows)[torch.from_numpy(columns).argsort()]
    inputs, labels, bound = (_reordered(part, order) for part in (guess.inputs, guess.labels, guess.bound))
    return replace(guess, inputs=inputs, labels=labels, bound=bound)


def _reordered(values: Tensor | None, order: Tensor) -> Tensor | None:
    return None if values is None else values[order]


def _squared_errors(guesses: Tensor, truths: Tensor) -> Tensor:
    """The mean squared error of every guess (N, D) with every truth (M, D): (N, M), in blocks of bounded memory.

    Differences, not |a|^2 + |b|^2 - 2ab, which has lost its digits where a guess is nearly exact.
    """
    several = max(1, BLOCK // max(1, truths.shape[1]))
    blocks = torch.split(truths, several)
    rows = [torch.cat([(guess - block).square().mean(1) for block in blocks]) for guess in guesses]
    return torch.stack(rows) if rows else guesses.new_zeros(0, len(truths))


def matched(seen: Observation, guess: Reconstruction, truth: Truth) -> Reconstruction:
    """The guess in the truth's order: activations and outputs have a row an image, so only the others are aligned."""
    return guess if seen.channel in ORDERED else align(guess, truth)


def score(
    attack: Attack,
    seen: Observation,
    guess: Reconstruction,
    truth: Truth,
    metrics: Mapping[str, Metric] | None = None,
) -> Score:
    """Score one guess against its truth, after matching the batch, on these `metrics` (None: all of the catalogue's).

    A metric that fails costs no other: `Score.unmeasured` has its reason.
    """
    guess = matched(seen, guess, truth)
    values, unmeasured = {}, {}
    for name, metric in (METRICS.usable() if metrics is None else metrics).items():
        values[name], reason = _measured(metric, guess.inputs, truth.inputs)
        if reason:
            unmeasured[name] = reason
    if guess.labels is None:
        accuracy, correct = float("nan"), torch.zeros(len(truth.labels), dtype=torch.bool)
    else:
        correct = guess.labels == truth.labels
        if seen.channel in ORDERED:
            accuracy = float(correct.float().mean())
        else:
            accuracy = label_accuracy(guess.labels, truth.labels, seen.spec.classes)
    return Score(values, accuracy, correct, guess.loss, attack.loss(seen, truth.inputs, truth.labels), unmeasured)


def _measured(metric: Metric, guess: Tensor | None, truth: Tensor) -> tuple[Tensor, str]:
    """One value an image, or NaN for each and the reason: the code of a metric may be anybody's."""
    nothing = torch.full((len(truth),), math.nan)
    if guess is None:
        return nothing, ""
    try:
        found = metric(guess, truth)
    except Exception as error:
        return nothing, f"{type(error).__name__}: {error}"
    if not isinstance(found, Tensor) or found.shape != (len(truth),):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return nothing, f"it returned {shape} for {len(truth)} images, and a metric returns one number an image"
    return found, ""


def score_set(
    matched_set: MatchedSet, metrics: Mapping[str, SetMetric]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The columns that each metric of a set gives, by its name, and of each that could not be computed why."""
    columns: dict[str, dict[str, Any]] = {}
    unmeasured = {}
    for name, metric in metrics.items():
        try:
            columns[name] = dict(metric(matched_set))
        except Exception as error:  # the code of a metric may be anybody's, and the work is done
            unmeasured[name] = f"{type(error).__name__}: {error}"
    return columns, unmeasured


def evaluate(attack: Attack, seen: Sequence[Observation], truths: Sequence[Truth], seed: int) -> list[Score]:
    """Let an attack learn, rebuild the images behind every observation, and score each guess against its truth.

    The truths stay here: the attack gets the observations and random streams of `seed` alone.

    Raises:
        ValueError: an observation that the attack cannot take, or another number of truths than of observations.
    """
    if len(truths) != len(seen):
        raise ValueError(f"{len(seen)} observations need as many truths, in the same order, not {len(truths)}")
    guesses = attack.prepare(seen, stream(seed, "prepare"))(seen, stream(seed, "attack"))
    return [score(attack, each, guess, truth) for each, guess, truth in zip(seen, guesses, truths, strict=True)]


def controls(
    public: Images, truths: Sequence[Truth], classes: int, rng: torch.Generator, class_is_read: bool = False
) -> dict[str, list[Reconstruction]]:
    """What an adversary without any observation would guess, one reconstruction a truth.

    'random guess': other images of the same kind, with random labels; 'mean image': the mean of such images, with the
    same labels. Where `class_is_read`, because labels leak or are sent, 'class mean' is what an attacker knows who read
    the true labels and nothing else: the mean of such images of the same class, or of all where none is of that class.
    `public` must share no image with the victims.

    Raises:
        ValueError: class means of images without labels.
    """
    mean = public.inputs.mean(0, keepdim=True)
    guesses: dict[str, list[Reconstruction]] = {"random guess": [], "mean image": []}
    if class_is_read:
        guesses["class mean"] = _class_means(public, truths)
    for truth in truths:
        count = len(truth.inputs)
        labels = torch.randint(classes, (count,), generator=rng)
        index = torch.randint(len(public), (count,), generator=rng)
        guesses["random guess"].append(Reconstruction(inputs=public.inputs[index], labels=labels))
        guesses["mean image"].append(Reconstruction(inputs=mean.expand(count, -1, -1, -1).clone(), labels=labels))
    return guesses


def _class_means(public: Images, truths: Sequence[Truth]) -> list[Reconstruction]:
    if public.labels is None:
        raise ValueError("the control 'class mean' needs the labels of its images, and these have none")
    wanted = {label for truth in truths for label in truth.labels.tolist()}
    members = {label: public.inputs[public.labels == label] for label in wanted}
    means = {label: (images if len(images) else public.inputs).mean(0) for label, images in members.items()}
    return [
        Reconstruction(inputs=torch.stack([means[label] for label in truth.labels.tolist()]), labels=truth.labels)
        for truth in truths
    ]


def interval(values: Sequence[float], seed: int, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean of `values` at `level`; (nan, nan) for none.

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    if len(values) == 0:
        return math.nan, math.nan
    data = torch.tensor(values, dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed)
    means = data[torch.randint(len(data), (draws, len(data)), generator=rng)].mean(1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high
