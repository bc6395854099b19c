"""Mean squared error."""

from torch import Tensor

from fl_privacy.metrics.base import METRICS, check_images


@METRICS.register("mse", more_is_leak=False)
def mse(guess: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error per image: (N, C, H, W) twice, in [0, 1], to (N,) in [0, 1]; 0 is a perfect copy.

    Raises:
        ValueError: as `check_images`, like every metric of images.
    """
    check_images(guess, truth)
    return (guess - truth).square().flatten(1).mean(1)
