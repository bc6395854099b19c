"""Total variation, which keeps guesses smooth: as GRNN's code scales it, and as Inverting Gradients' does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def squared_variation(images: Tensor) -> Tensor:
    """Squared anisotropic total variation per victim: (V, B, C, H, W) in [0, 1] to (V,).

    (2/B) (sum of squared vertical differences / C(H-1)W + horizontal ones / CH(W-1)).

    Source: Rand2AI/GRNN, whose weight `tv` this scale belongs to; weights of other libraries do not carry over.
    """
    return 2 * _between_neighbours(images, torch.square)


def absolute_variation(images: Tensor) -> Tensor:
    """The mean absolute difference downwards plus that across per victim: (V, B, C, H, W) to (V,).

    Source: JonasGeiping/invertinggradients.
    """
    return _between_neighbours(images, torch.abs)


def _between_neighbours(images: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    down, across = images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]
    # a side of one pixel has no neighbours, and a mean over none of them is NaN
    means = (of(each).mean((1, 2, 3, 4)) for each in (down, across) if each.numel())
    return sum(means, start=images.new_zeros(len(images)))
