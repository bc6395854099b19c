"""Structural similarity."""

import torch
from pytorch_msssim import ssim as gaussian_ssim
from torch import Tensor

from fl_privacy.metrics.base import METRICS, check_images

WINDOW = 11


@METRICS.register("ssim", more_is_leak=True)
def ssim(guess: Tensor, truth: Tensor) -> Tensor:
    """SSIM per image by pytorch-msssim (Gaussian window 11, sigma 1.5, valid borders): (N, C, H, W) twice to (N,).

    Inputs in [0, 1]. An image smaller than the window gets the largest odd window that fits; the result is in [-1, 1]
    and 1 only for a perfect copy.

    Raises:
        ValueError: as `check_images`, or images with a side below 2 pixels.

    Source: Wang et al. 2004, equation 13, with k1 = 0.01, k2 = 0.03.
    """
    check_images(guess, truth)
    if len(guess) == 0:
        return torch.zeros(0)
    window = window_of(guess)
    scores: Tensor = gaussian_ssim(guess.float(), truth.float(), data_range=1.0, size_average=False, win_size=window)
    return scores


def window_of(images: Tensor) -> int:
    """The side of SSIM's window for images (N, C, H, W).

    Raises:
        ValueError: images with a side below 2 pixels.
    """
    side = min(images.shape[-2:])
    if side < 2:
        raise ValueError(f"SSIM needs images of at least 2 x 2 pixels, not {tuple(images.shape[-2:])}")
    return min(WINDOW, side if side % 2 else side - 1)
