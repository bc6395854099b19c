"""Affine layers as matrices over one flat image, and the equations that a weight's gradient is in its layer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from fl_privacy.attacks.gradient.layer_chain import Layer
from fl_privacy.models.normalise import Normalise

Array = NDArray[np.float64]
POINTWISE = (nn.BatchNorm1d, nn.BatchNorm2d, Normalise)
POOLING = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Affine:
    """y = matrix x + offset over flat images; `matrix` (out, in) is a scipy CSR matrix.

    For a convolution, `taps` (K, P): which of the `pixels` of an input channel tap k sees at output position p, -1 for
    padding; `kernel` is its weight's (output channels, input channels of a group, K). A linear layer is a convolution
    of one tap at one position. `own`: the layer normalises by the moments of its own input, and how.
    """

    name: str
    matrix: Any
    offset: Array
    taps: NDArray[np.int64] | None = None
    pixels: int = 1
    groups: int = 1
    kernel: tuple[int, int, int] | None = None
    own: Normalised | None = None


@dataclass(frozen=True)
class Normalised:
    """(x - mean) / deviation by channel (C,), moments of x itself, over so many `positions`."""

    mean: Array
    deviation: Array
    positions: int

    def __call__(self, x: Array) -> Array:
        """Flat values (C positions,), normalised."""
        mean, deviation = (np.repeat(each, self.positions) for each in (self.mean, self.deviation))
        out: Array = (x - mean) / deviation
        return out


def identity(shape: tuple[int, ...]) -> Affine:
    """The map that changes nothing of values of `shape`."""
    size = int(np.prod(shape))
    return Affine("", sp.eye_array(size).tocsr(), np.zeros(size))


def as_affine(layer: Layer) -> Affine | None:
    """The layer as an affine map, or None where it is none that is known.

    Raises:
        ValueError: a convolution that pads by anything but zeros.
    """
    module = layer.module
    if isinstance(module, nn.Linear) and len(layer.shape_in) == 1:
        return _linear(layer.name, module)
    if isinstance(module, nn.Conv2d):
        return _convolution(layer, module)
    with torch.no_grad():
        zero, one = (torch.full((1, *layer.shape_in), value, dtype=torch.float64) for value in (0.0, 1.0))
        if isinstance(module, POINTWISE):
            offset = module(zero).numpy().ravel()
            scale = sp.diags_array(module(one).numpy().ravel() - offset).tocsr()
            return Affine(layer.name, scale, offset, own=_own(layer) if layer.by_itself else None)
        if isinstance(module, POOLING):
            channels, height, width = layer.shape_in
            basis = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
            plane = sp.csr_array(module(basis).flatten(1).numpy().T)
            matrix = sp.kron(sp.eye_array(channels), plane).tocsr()
            return Affine(layer.name, matrix, np.zeros(matrix.shape[0]))
    return None


def _own(layer: Layer) -> Normalised:
    module = layer.module
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    mean, variance = (module.get_buffer(name).numpy() for name in ("running_mean", "running_var"))
    return Normalised(mean, np.sqrt(variance + module.eps), int(np.prod(layer.shape_in[1:])))


def _linear(name: str, module: nn.Linear) -> Affine:
    weight = module.weight.detach().numpy()
    return Affine(
        name,
        sp.csr_array(weight),
        np.zeros(len(weight)) if module.bias is None else module.bias.detach().numpy(),
        taps=np.zeros((1, 1), dtype=np.int64),
        kernel=(*weight.shape, 1),
    )


def _convolution(layer: Layer, module: nn.Conv2d) -> Affine:
    if module.padding_mode != "zeros":
        raise ValueError(
            f"convolution '{layer.name}' pads by '{module.padding_mode}', which its matrix here does not: pad by "
            "zeros, or use an attack that optimises"
        )
    channels, height, width = layer.shape_in
    pixels, positions = height * width, int(np.prod(layer.shape_out[1:]))
    taps = _taps(module, height, width)
    weight = module.weight.detach().numpy().reshape(module.out_channels, channels // module.groups, -1)
    out, inside, k = weight.shape
    group = np.arange(out) // (out // module.groups)
    # every (output channel, input channel of its group, tap, position) is one entry of the matrix
    seen = taps >= 0
    tap, position = np.nonzero(seen)
    pixel = taps[seen]
    o, c = (each.ravel() for each in np.meshgrid(np.arange(out), np.arange(inside), indexing="ij"))
    rows = (o[:, None] * positions + position).ravel()
    columns = ((group[o] * inside + c)[:, None] * pixels + pixel).ravel()
    values = weight[o, c][:, tap].ravel()
    matrix = sp.csr_array((values, (rows, columns)), shape=(out * positions, channels * pixels))
    bias = np.zeros(out) if module.bias is None else module.bias.detach().numpy()
    return Affine(layer.name, matrix, np.repeat(bias, positions), taps, pixels, module.groups, kernel=(out, inside, k))


def _taps(module: nn.Conv2d, height: int, width: int) -> NDArray[np.int64]:
    """(K, P): the pixel that each tap sees at each output position, -1 for padding."""
    index = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
    padding = (
        module._reversed_padding_repeated_twice
        if isinstance(module.padding, str)
        else [side for size in reversed(module.padding) for side in (size, size)]
    )
    unfolded = F.unfold(F.pad(index, padding), module.kernel_size, module.dilation, 0, module.stride)
    return unfolded[0].long().numpy() - 1
