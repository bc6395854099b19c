"""Max-pooling made smooth, and sharper from stage to stage.

A gradient's slope in the image passes through the largest pixel of each window alone, so that a search keeps the
choices that it began with. While every pixel of a window counts, by how large it is, they can still change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.gradient.matching import Matcher
from fl_privacy.attacks.inversion.gauss_newton import gauss_newton
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.seeding import seeded, stream

SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of the stages: how much more a pixel counts that is larger by the spread of the windows, as a logarithm."""
STAGES = 4  # so small a share of a search's steps has each of them
INDEPENDENT = 0.5  # entries of the error of smooth pooling, for each pixel
BESIDE = -torch.inf  # the padding, as torch's own max-pooling has it
POOLING = (F.max_pool2d, torch.max_pool2d)


@torch.no_grad()
def pooling_spread(model: nn.Module, images: Tensor) -> float:
    """How far the pixels of a window of max-pooling are below its largest in the mean, of the pooling with most of it.

    Measured on images (N, C, H, W), whatever they show; 0 for a model without max-pooling of images.
    """
    found = [0.0]

    def measured(windows: Tensor) -> Tensor:
        largest = windows.amax(-1)
        inside = windows > BESIDE
        found.append(float((largest[..., None] - windows)[inside].mean()))
        return largest

    with _Pooled(measured), seeded(0, "attack", "forward"):
        model(images)
    return max(found)


def softened(match: Matcher, sharpness: float) -> Matcher:
    """`match` with every pixel x of a window of max-pooling counted, weighted by exp(sharpness x)."""

    def weighted(windows: Tensor) -> Tensor:
        beside = windows == BESIDE
        pixels = windows.masked_fill(beside, 0.0)  # infinity times a weight of 0 is no number
        return ((sharpness * pixels).masked_fill(beside, BESIDE).softmax(-1) * pixels).sum(-1)

    def soft(images: Tensor, targets: Tensor) -> Tensor:
        with _Pooled(weighted):
            return match(images, targets)

    return soft


def prior_draw(like: Tensor) -> Tensor:
    """Coordinates of images that the prior draws, the same for every victim and call."""
    return torch.randn(like.shape, generator=stream(0, "pooling")).to(like)


@torch.no_grad()
def pooled_softly(given: Likelihood, prior: Prior, labels: Tensor, sharpness: float, at: Tensor) -> Likelihood:
    """`given` through smooth max-pooling; what that errs by on coordinates `at` (V, B, k) counts as noise.

    Of such an error half as many entries are taken to be independent as the images have pixels.
    """
    soft = replace(given, match=softened(given.match, sharpness))
    apart = given.residual(prior, labels)(at) - soft.residual(prior, labels)(at)
    share = max(1.0, apart.shape[1] / (INDEPENDENT * at[0].numel()))
    return replace(soft, error=apart.square().mean(1) * share)


def softly_fitted(
    given: Likelihood, prior: Prior, labels: Tensor, spread: float, start: Tensor, outer: int, inner: int
) -> Tensor:
    """Coordinates (V, B, k) from Gauss-Newton through pooling that sharpens, `outer` steps a stage; see `gauss_newton`.

    `spread`: that of the model's windows (`pooling_spread`).
    """
    u, at = start, prior_draw(start)
    for sharpness in SHARPNESS:
        soft = pooled_softly(given, prior, labels, sharpness / spread, at)
        u = at = gauss_newton(soft.residual(prior, labels), u, soft.floor, outer, inner).u
    return u


class _Pooled(TorchFunctionMode):
    """While active, max-pooling of images is what `pool` makes of its windows (..., n)."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._pool = pool

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in POOLING and (windows := _windows(*args, **(kwargs or {}))) is not None:
            return self._pool(windows)
        return func(*args, **(kwargs or {}))


def _windows(
    x: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """The windows (..., H', W', n) of images (..., H, W); None where they are not of one size, or indices are asked."""
    sizes = [_two(value) for value in (kernel_size, stride or kernel_size, padding, dilation)]
    kernel, step, pad, apart = sizes
    if ceil_mode or return_indices:
        return None
    if any(pad):
        x = F.pad(x, (pad[1], pad[1], pad[0], pad[0]), value=BESIDE)
    # slices, because vmap takes a window view of torch's own one victim after the other
    count = [(x.shape[d - 2] - apart[d] * (kernel[d] - 1) - 1) // step[d] + 1 for d in (0, 1)]
    reach = [step[d] * (count[d] - 1) + 1 for d in (0, 1)]
    return torch.stack(
        [
            x[..., a * apart[0] : a * apart[0] + reach[0] : step[0], b * apart[1] : b * apart[1] + reach[1] : step[1]]
            for a, b in product(range(kernel[0]), range(kernel[1]))
        ],
        -1,
    )


def _two(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])
