"""Mean squared error."""

from torch import Tensor

from fl_privacy.metrics.base import METRICS


@METRICS.register("mse", more_is_leak=False)
def mse(guess: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error per image: (N, C, H, W) twice, in [0, 1], to (N,) in [0, 1]; 0 is a perfect copy."""
    return (guess - truth).square().flatten(1).mean(1)
