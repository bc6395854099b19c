"""Peak signal-to-noise ratio."""

from torch import Tensor

from fl_privacy.metrics.base import METRICS
from fl_privacy.metrics.mse import mse

CEILING_DB = 100.0


@METRICS.register("psnr", more_is_leak=True)
def psnr(guess: Tensor, truth: Tensor) -> Tensor:
    """PSNR per image in dB with peak 1: (N, C, H, W) twice, in [0, 1], to (N,).

    10 log10(1 / MSE) of each image by itself, then averaged by whoever reports: never of a pooled MSE. An exact copy
    would be infinite; it is capped at 100 dB so that means and JSON stay finite.

    Raises:
        ValueError: as `check_images`.
    """
    return -10.0 * mse(guess, truth).clamp_min(10 ** (-CEILING_DB / 10)).log10()
