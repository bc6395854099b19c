"""When an image counts as recovered, and how often somebody passes that test who has seen nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_privacy.metrics.psnr import psnr
from fl_privacy.metrics.ssim import ssim
from fl_privacy.observation import Images

PSNR, SSIM = 20.0, 0.6
"""An image is recovered where its PSNR is at least 20 dB or its SSIM at least .6."""
MOST, STARTS, SHIFTS = 500, 20, 4
"""Public images that are compared; how many of them, where most others lie, are tried; how often one is improved."""


def recovered(values: Mapping[str, Tensor]) -> Tensor:
    """Whether each image (N,) passes the test, by its 'psnr' and 'ssim' (N,); one that is NaN decides nothing."""
    return (values["psnr"] >= PSNR) | (values["ssim"] >= SSIM)


def blind_share(public: Images) -> float:
    """The largest share of images (N, C, H, W) in [0, 1] on which any one guess passes the test.

    The guesses tried are the mean, the mean of each class, the images around which most others lie, and means of what
    each of them passes on: the best guess of all may pass on more. Counted as (passed + 1) / (N + 1), so that a share
    is never 0, over at most 500 images. Of B guesses for a message an image may pass on any: with B of them nobody
    passes more often than on B times the share of the best.
    """
    images = public.inputs[:MOST]
    labels = None if public.labels is None else public.labels[:MOST]
    guesses = [images.mean(0)]
    if labels is not None:
        guesses += [images[labels == label].mean(0) for label in sorted(set(labels.tolist()))]
    near = _near(images)
    guesses += [images[near[int(index)]].mean(0) for index in near.sum(1).topk(min(STARTS, len(images))).indices]
    best = 0
    for guess in guesses:
        for _ in range(SHIFTS):
            passed = _passes(guess, images)
            if int(passed.sum()) <= best:
                break
            best = int(passed.sum())
            guess = images[passed].mean(0)
    return (best + 1) / (len(images) + 1)


def _near(images: Tensor) -> Tensor:
    """Which images (N, N) lie within the PSNR of the test of each other."""
    flat = images.flatten(1)
    return torch.cdist(flat, flat).square() / flat.shape[1] <= 10 ** (-PSNR / 10)


def _passes(guess: Tensor, images: Tensor) -> Tensor:
    guesses = guess.expand_as(images)
    return recovered({"psnr": psnr(guesses, images), "ssim": _structure(guesses, images)})


def _structure(guesses: Tensor, images: Tensor) -> Tensor:
    """SSIM (N,), NaN where the images are too small for its window."""
    try:
        return ssim(guesses, images)
    except (ValueError, RuntimeError, AssertionError):
        return torch.full((len(images),), float("nan"))
