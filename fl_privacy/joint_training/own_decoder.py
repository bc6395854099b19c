"""How much more than the class a classifier's answers tell: a decoder that a user fits to a few of them by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.seeding import stream

BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Of the kernel, in units of the median distance of two answers."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def decodability(released: Tensor, images: Tensor, seed: int, folds: int = 5) -> float:
    """The share of what the answered class leaves open of an image that the answer's numbers tell, at most 1.

    `released` (N, classes), in whatever form users send them, and the images (N, C, H, W) they are of. Images are
    rebuilt out of fold: by kernel ridge regression, whose kernel and ridge are chosen by leaving one out of the other
    folds, and, to compare, as the mean of the others' images of the same answered class. 1 minus the ratio of the two
    squared errors; below 0 where the numbers mislead. No label is needed, and nothing of the model but its answers.

    Raises:
        ValueError: fewer than 4 images a fold, or another number of answers than of images.

    Source: kernel ridge regression, Saunders et al. 1998; the leave-one-out residuals in closed form, Allen 1974.
    """
    if len(released) != len(images) or len(images) < 4 * folds:
        raise ValueError(
            f"{len(released)} answers to {len(images)} images: a decoder of one's own needs as many of both, and at "
            f"least {4 * folds}"
        )
    answers, pixels = released.double(), images.flatten(1).double()
    order = torch.randperm(len(answers), generator=stream(seed, "own decoder")).to(answers.device)
    left, blind = 0.0, 0.0
    for held in order.chunk(folds):
        kept = order[~torch.isin(order, held)]
        guess = _regressed(answers[kept], pixels[kept], answers[held])
        left += float((guess - pixels[held]).square().sum())
        mean = _class_means(answers[kept], pixels[kept], answers[held])
        blind += float((mean - pixels[held]).square().sum())
    return 1 - left / blind if blind else 0.0


def _class_means(answers: Tensor, pixels: Tensor, asked: Tensor) -> Tensor:
    """The mean of the images (N, D) with the answered class of each asked one; of all where there is none."""
    classes, wanted = answers.argmax(1), asked.argmax(1)
    means = pixels.mean(0).expand(answers.shape[1], -1).clone()
    for label in set(classes.tolist()):
        means[label] = pixels[classes == label].mean(0)
    return means[wanted]


def _regressed(answers: Tensor, pixels: Tensor, asked: Tensor) -> Tensor:
    """Images (M, D) of the asked answers (M, classes), by the kernel that does best on the others when left out."""
    spread = answers.std(0).clamp_min(1e-12)
    known, wanted, mean = answers / spread, asked / spread, pixels.mean(0)
    centred = pixels - mean
    distances = torch.cdist(known, known)
    scale = float(distances[distances > 0].median()) if bool((distances > 0).any()) else 1.0
    best, chosen = float("inf"), (BANDWIDTHS[0], centred)
    for bandwidth in BANDWIDTHS:
        values, vectors = torch.linalg.eigh(_kernel(distances, bandwidth * scale))
        turned = vectors.T @ centred
        for ridge in RIDGES:
            shrunk = 1 / (values.clamp_min(0) + ridge)
            weights = vectors @ (shrunk[:, None] * turned)
            # the residual of an image that was left out: its weight over the inverse's diagonal
            inverse = (vectors.square() * shrunk).sum(1)
            error = float((weights / inverse[:, None]).square().sum())
            if error < best:
                best, chosen = error, (bandwidth, weights)
    bandwidth, weights = chosen
    return mean + _kernel(torch.cdist(wanted, known), bandwidth * scale) @ weights


def _kernel(distances: Tensor, width: float) -> Tensor:
    return torch.exp(-(distances / width).square() / 2)
