"""MAP on a gradient of several images without known noise: descent in whitened differences, from several starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.label_reading import drawn, singles
from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.gradient.smoothing import SHARPNESS, STAGES, prior_draw, smoothed
from fl_privacy.attacks.gradient.whitening import whitening
from fl_privacy.attacks.inversion.descent import Objective, descend
from fl_privacy.attacks.inversion.gauss_newton import Residual
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.seeding import stream
from fl_privacy.weights import trainable

WHITENING_IMAGES = 384
MOST_WHITENED = 200_000
FAR = 0.3
"""Times a random u: where a descent starts. From nearer the images of one label part late, from u = 0 never."""


@dataclass(frozen=True)
class BatchSearch:
    """How long to search: as in `MaximumAPosteriori`; `kinks`: those of the model (`kinks_of`)."""

    adam: int
    lbfgs: int
    restarts: int
    grnn: int
    kinks: Sequence[float]


def whitened(seen: Observation, given: Likelihood, prior: Prior, labels: Tensor) -> Likelihood:
    """With each victim's differences whitened by images that the prior of images draws, for labels (V, B).

    As they are for a model of more than 200,000 parameters, whose drawn gradients would fill the memory.
    """
    if given.observed.shape[1] > MOST_WHITENED:
        return given
    assert seen.model is not None
    images = drawn(prior, WHITENING_IMAGES, stream(0, "whitening"), given.observed)
    shapes = {name: value.shape for name, value in trainable(seen.model).items()}
    match = singles(seen, len(images))
    own = [whitening(match, images, each, given.classes, shapes) for each in labels]
    return replace(given, whiten=lambda d: torch.cat([w(d[i : i + 1]) for i, w in enumerate(own)]))


def fit_batch(
    seen: Sequence[Observation],
    given: Likelihood,
    prior: Prior,
    labels: Tensor,
    search: BatchSearch,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Of gradients of labels (V, B): coordinates (V, B, k) under the prior of these labels, and losses (T, V).

    Starts are random draws and the guess of GRNN's generator. Through max-pooling and ReLU the better is taken of the
    search through the model as it is and of one that began through a smooth one.

    Source: ours.
    """
    shape = (search.restarts, *labels.shape, prior.mean.shape[-3:].numel())
    starts = FAR * torch.randn(shape, generator=rng).to(given.observed)
    if search.grnn:
        guesses = GRNN(iterations=search.grnn, restarts=1, patience=0)(seen, rng)
        starts = torch.cat([starts, prior.coordinates(_by_label(guesses).to(starts)).unsqueeze(0)])
    loss = objective(given, given.residual(prior, labels))
    found = descend(loss, starts, search.adam, search.lbfgs)
    if not search.kinks:
        return found.u, found.trace
    at, adam = prior_draw(starts[0]), search.adam
    for sharpness in SHARPNESS:
        soft = smoothed(given, prior, labels, sharpness, search.kinks, at)
        softly = objective(soft, soft.residual(prior, labels))
        at = descend(softly, starts, adam, math.ceil(search.lbfgs / STAGES)).u
        starts, adam = at[None], 0
    last = descend(loss, starts, 0, search.lbfgs)
    better = (last.losses < found.losses)[:, None, None]
    return torch.where(better, last.u, found.u), torch.cat([found.trace, last.trace])


def objective(given: Likelihood, residual: Residual) -> Objective:
    """Minus the log posterior (V,) of coordinates (V, B, k), up to a constant."""
    return lambda u: given.nats(residual(u)) + 0.5 * u.square().sum((1, 2))


def _by_label(guesses: Sequence[Reconstruction]) -> Tensor:
    """The images (V, B, C, H, W) of guesses in the order of their labels, which is that of `read_labels`."""
    found = []
    for guess in guesses:
        assert guess.inputs is not None
        assert guess.labels is not None
        found.append(guess.inputs[guess.labels.argsort()])
    return torch.stack(found)
