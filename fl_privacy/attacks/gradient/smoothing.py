"""Max-pooling and ReLU made smooth, and sharper from stage to stage.

Through max-pooling the slope of a gradient in the image passes through the largest pixel of each window alone, through
ReLU those of the units that are on, and where one goes on or off the gradient jumps: a search keeps the choices that it
began with. While every pixel and unit counts, by how large it is, they can still change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, product
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
Rectifier = Callable[[Tensor], Tensor]
INDEPENDENT = 0.5  # entries of the error of smooth pooling, for each pixel
BESIDE = -torch.inf  # the padding, as torch's own max-pooling has it
POOLING = (F.max_pool2d, torch.max_pool2d)


@torch.no_grad()
def kinks_of(model: nn.Module, images: Tensor) -> tuple[float, ...]:
    """The unit in which each max-pooling and ReLU of a forward pass is smoothed, in the order of the calls.

    Measured on images (N, C, H, W), whatever they show: of ReLU the deviation of a unit's input over the images in the
    mean. Of max-pooling how far the pixels of a window are below its largest in the mean, and of that the geometric
    mean with the largest among the calls: each alone did worse on one way or another to draw the weights.
    """
    found: list[float] = []
    pools: list[int] = []

    def pooled(windows: Tensor) -> Tensor:
        largest = windows.amax(-1)
        pools.append(len(found))
        found.append(float((largest[..., None] - windows)[windows > BESIDE].mean()))
        return largest

    def rectified(x: Tensor) -> Tensor:
        found.append(float((x - x.mean(0)).square().mean(0).sqrt().mean()))
        return x.clamp_min(0.0)

    with _Replaced(pooled, rectified), seeded(0, "attack", "forward"):
        model(images)
    widest = max((found[call] for call in pools), default=0.0)
    return tuple(math.sqrt(unit * widest) if call in pools else unit for call, unit in enumerate(found))


def softened(match: Matcher, sharpness: float, kinks: Sequence[float]) -> Matcher:
    """`match` with weighted means for max-pooling and softplus for ReLU.

    The pixels x of a window are weighted by exp(sharpness x / k), and ReLU is log(1 + exp(sharpness x / k)) k /
    sharpness, where k is the unit of the call (`kinks_of`). A call whose unit is 0 is left as it is.
    """

    def soft(images: Tensor, targets: Tensor) -> Tensor:
        units = cycle(kinks)  # a match of several local steps passes the model as often

        def pooled(windows: Tensor) -> Tensor:
            unit = next(units)
            if not unit:
                return windows.amax(-1)
            beside = windows == BESIDE
            pixels = windows.masked_fill(beside, 0.0)  # infinity times a weight of 0 is no number
            return ((sharpness / unit * pixels).masked_fill(beside, BESIDE).softmax(-1) * pixels).sum(-1)

        def rectified(x: Tensor) -> Tensor:
            unit = next(units)
            return F.softplus(x, sharpness / unit) if unit else x.clamp_min(0.0)

        with _Replaced(pooled, rectified):
            return match(images, targets)

    return soft


def prior_draw(like: Tensor) -> Tensor:
    """Coordinates of images that the prior draws, the same for every victim and call."""
    return torch.randn(like.shape, generator=stream(0, "pooling")).to(like)


@torch.no_grad()
def smoothed(
    given: Likelihood, prior: Prior, labels: Tensor, sharpness: float, kinks: Sequence[float], at: Tensor
) -> Likelihood:
    """`given` through a smooth model; what that errs by on coordinates `at` (V, B, k) counts as noise.

    Of such an error half as many entries are taken to be independent as the images have pixels.
    """
    soft = replace(given, match=softened(given.match, sharpness, kinks))
    apart = given.residual(prior, labels)(at) - soft.residual(prior, labels)(at)
    share = max(1.0, apart.shape[1] / (INDEPENDENT * at[0].numel()))
    return replace(soft, error=apart.square().mean(1) * share)


def softly_fitted(
    given: Likelihood, prior: Prior, labels: Tensor, kinks: Sequence[float], start: Tensor, outer: int, inner: int
) -> Tensor:
    """Coordinates (V, B, k) from Gauss-Newton through a model that sharpens, `outer` steps a stage; see `gauss_newton`.

    `kinks`: the model's own.
    """
    u, at = start, prior_draw(start)
    for sharpness in SHARPNESS:
        soft = smoothed(given, prior, labels, sharpness, kinks, at)
        u = at = gauss_newton(soft.residual(prior, labels), u, soft.floor, outer, inner).u
    return u


class _Replaced(TorchFunctionMode):
    """While active, max-pooling is what `pooled` makes of its windows (..., n), and ReLU with its kin `rectified`."""

    def __init__(self, pooled: Callable[[Tensor], Tensor], rectified: Rectifier) -> None:
        super().__init__()
        self._pooled = pooled
        self._rectified = rectified

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in POOLING and (windows := _windows(*args, **given)) is not None:
            return self._pooled(windows)
        if func in RECTIFIERS:
            return RECTIFIERS[func](self._rectified, *args, **given)
        return func(*args, **given)


def _relu(relu: Rectifier, input: Tensor, inplace: bool = False) -> Tensor:
    return relu(input)


def _leaky_relu(relu: Rectifier, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * input + (1 - negative_slope) * relu(input)


def _hardtanh(
    relu: Rectifier, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    return min_val + relu(input - min_val) - relu(input - max_val)


def _relu6(relu: Rectifier, input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(relu, input, 0.0, 6.0)


RECTIFIERS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
}
"""What is made of ReLU, and how. What works in place, whatever becomes of its result, is left as it is."""


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
