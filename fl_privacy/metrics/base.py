"""What a metric is: a guess and the truth, already matched image by image, to one number an image."""

from collections.abc import Callable

import torch
from torch import Tensor

from fl_privacy.registry import Registry

Metric = Callable[[Tensor, Tensor], Tensor]
"""(guess (N, C, H, W), truth (N, C, H, W)), both in [0, 1], to (N,). Entered with `more_is_leak=True|False`."""

METRICS: Registry[Metric] = Registry("metric")

ROUNDING = 1e-6
"""How far a pixel may lie outside [0, 1]: what float32 loses on the way."""


def check_images(guess: Tensor, truth: Tensor) -> None:
    """Check that guess and truth are images (N, C, H, W) of one shape, in [0, 1].

    Raises:
        ValueError: another shape, two shapes, no floating-point numbers, or a pixel that is NaN, infinite or outside
            [0, 1].
    """
    check_shapes(guess, truth)
    if guess.dim() != 4:
        raise ValueError(f"a metric compares images (N, C, H, W), not tensors of shape {tuple(guess.shape)}")
    for name, images in (("guess", guess), ("truth", truth)):
        if not images.is_floating_point():
            raise ValueError(
                f"the {name} is of type {images.dtype}, and metrics take floating-point images in [0, 1]: "
                "images.float(), divided by 255 where they are bytes"
            )
        if images.numel():
            low, high = map(float, torch.aminmax(images.detach()))
            if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # false for NaN too
                raise ValueError(
                    f"the {name} has pixels from {low:g} to {high:g}, and metrics take images in [0, 1]: divide bytes "
                    "by 255, undo any normalisation, or clamp"
                )


def check_shapes(guess: Tensor, truth: Tensor) -> None:
    """Check that guess and truth have one shape, because others would be broadcast in silence.

    Raises:
        ValueError: they have two.
    """
    for name, images in (("guess", guess), ("truth", truth)):
        if not isinstance(images, Tensor):
            raise ValueError(f"the {name} must be a torch tensor, not {type(images).__name__}: see torch.from_numpy")
    if guess.shape != truth.shape:
        if truth.dim() == 4 and guess.shape == truth.permute(0, 3, 1, 2).shape:
            raise ValueError(
                f"the truth has images (N, H, W, C), {tuple(truth.shape)}, and they are (N, C, H, W) here: pass "
                "images.permute(0, 3, 1, 2)"
            )
        raise ValueError(
            f"the guess has shape {tuple(guess.shape)} and the truth {tuple(truth.shape)}: match them image by image, "
            "in one size, before they are compared"
        )
