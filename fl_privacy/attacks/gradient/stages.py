"""One step down a chain of layers: from what an activation took to what the activation below it gave, by least squares.

Between two activations all is affine: z = A x + c. Where z and the slope of the loss in it are known, x solves linear
equations of two kinds: A x = z - c, and for every weight in between dL/dW = the correlation of that layer's input,
which is affine in x, with the slope at its output. All are stacked, each divided by its standard error, over a Gaussian
prior.

Source: Zhu and Blaschko 2021, R-GAP (arXiv 2010.07733), which solves them unweighted and without a prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri
from torch import nn

from fl_privacy.attacks.gradient.affine import Affine, Normalised, as_affine, identity
from fl_privacy.attacks.gradient.layer_chain import Layer
from fl_privacy.attacks.gradient.released import Released

Array = NDArray[np.float64]

UNKNOWN = 1e30
"""The error variance of what is not known: finite, so that no product of it with zero is undefined."""


TURNS, SETTLED = 30, 1e-7
ROUNDING = 3e-6
"""What moments that were sent are off by, in deviations: they are differences of float32 numbers, over a momentum."""


@dataclass(frozen=True)
class Known:
    """Values (n,) of one flat layer, with their error variances."""

    value: Array
    variance: Array


@dataclass(frozen=True)
class Belief:
    """A Gaussian over the values (n,) of a layer before anything is known: its precision (n, n), or (n,) of each alone.

    `square` is the mean square of a value: what an error in the slope weighs where it is multiplied by one.
    """

    mean: Array
    precision: Array
    square: float


def independent(size: int, mean: float, deviation: float) -> Belief:
    """`size` values, each N(mean, deviation^2) by itself."""
    return Belief(np.full(size, mean), np.full(size, deviation**-2.0), mean**2 + deviation**2)


@dataclass(frozen=True)
class Stage:
    """Affine layers, in order, and the `activation` that follows (None: the logits).

    `before[i]` is the matrix and the offset of the first i layers together; the last are those of all of them.
    """

    layers: tuple[Affine, ...]
    before: tuple[tuple[Any, Array], ...]
    activation: nn.Module | None

    @property
    def size(self) -> int:
        """The number of values that an image has where it enters."""
        return int(self.layers[0].matrix.shape[1])


def stages(chain: Sequence[Layer]) -> list[Stage]:
    """A chain of layers, cut after each that is not affine; two such in a row have an identity between them."""
    found: list[Stage] = []
    affine: list[Affine] = []
    for layer in chain:
        known = as_affine(layer)
        if known is None:
            found.append(_stage(affine or [identity(layer.shape_in)], layer.module))
            affine = []
        else:
            affine.append(known)
    return [*found, _stage(affine, None)] if affine else found


def _stage(layers: list[Affine], activation: nn.Module | None) -> Stage:
    size = layers[0].matrix.shape[1]
    before = [(sp.eye_array(size).tocsr(), np.zeros(size))]
    for layer in layers:
        matrix, offset = before[-1]
        before.append((layer.matrix @ matrix, layer.matrix @ offset + layer.offset))
    return Stage(tuple(layers), tuple(before), activation)


def descend(stage: Stage, output: Known, delta: Known, seen: Released, prior: Belief) -> tuple[Known, Known]:
    """What a stage took, and the slope of the loss in that, from what it gave and the slope in that.

    The variance of the first is its posterior's diagonal. Through a layer that normalises by moments of its own input
    the slope depends on that input: it is found in turns with it.
    """
    output = _with_the_rest(stage.layers[-1], output)
    inputs = {
        layer.name: before
        for layer, before in zip(stage.layers, stage.before[:-1], strict=True)
        if layer.own is not None
    }
    found, below, normalised = _solve(stage, output, delta, seen, prior, inputs, {})
    for _ in range(TURNS if inputs else 0):
        before = found
        found, below, normalised = _solve(stage, output, delta, seen, prior, inputs, normalised)
        moved = np.square(found.value - before.value).sum() > SETTLED**2 * np.square(found.value).sum()
        if not moved and found.variance.sum() > 0.5 * before.variance.sum():
            break
    return found, below


def _with_the_rest(layer: Affine, output: Known) -> Known:
    """`output` of a layer that normalises by itself, with the mean and variance of what is not known of a channel.

    Normalised, a channel has mean 0 and variance 1; what those that are known lack in either the others have.
    """
    own = layer.own
    if own is None:
        return output
    sides = (len(own.mean), own.positions)
    known = (output.variance < UNKNOWN).reshape(sides)
    slope = layer.matrix.diagonal().reshape(sides)
    centre = slope * own.mean[:, None] + layer.offset.reshape(sides)
    value, variance = output.value.reshape(sides), output.variance.reshape(sides)
    far, count = np.where(known, value - centre, 0.0), np.maximum((~known).sum(1, keepdims=True), 1)
    mean = -far.sum(1, keepdims=True) / count
    spread = (slope * own.deviation[:, None]) ** 2
    square = (spread.sum(1, keepdims=True) - np.square(far).sum(1, keepdims=True)) / count
    rest = np.maximum(square - mean**2, 1e-2 * spread)
    variance = np.where(known, variance + ROUNDING**2 * spread, rest)
    return Known(np.where(known, value, centre + mean).ravel(), variance.ravel())


def _solve(
    stage: Stage,
    output: Known,
    delta: Known,
    seen: Released,
    prior: Belief,
    inputs: Mapping[str, tuple[Any, Array]],
    guess: Mapping[str, Known],
) -> tuple[Known, Known, dict[str, Known]]:
    """The same, linear, for a `guess` of the `inputs` of layers with moments, and the next such guess."""
    matrix, offset = stage.before[-1]
    weight = np.where(output.variance < UNKNOWN, 1 / output.variance, 0.0)
    normal = np.diag(prior.precision) if prior.precision.ndim == 1 else prior.precision.copy()
    right = normal @ prior.mean + matrix.T @ (weight * (output.value - offset))
    if weight.any():
        normal += (matrix.T @ sp.diags_array(weight) @ matrix).toarray()
    for layer, before in reversed(list(zip(stage.layers, stage.before[:-1], strict=True))):
        delta = _with_bias(layer, delta, seen)
        if layer.taps is not None and f"{layer.name}.weight" in seen.gradients:
            _add_weight_equations(normal, right, layer, before, delta, seen, prior.square)
        if layer.own is not None:
            delta = _through_moments(layer, layer.own, delta, seen, guess.get(layer.name))
            _add_means(normal, right, layer.own, before)
        delta = Known(layer.matrix.T @ delta.value, layer.matrix.power(2).T @ delta.variance)
    found, spread = _posterior(normal, right, [matrix for matrix, _ in inputs.values()])
    taken = zip(inputs.items(), spread, strict=True)
    return found, delta, {n: Known(matrix @ found.value + offset, var) for (n, (matrix, offset)), var in taken}


def _through_moments(layer: Affine, own: Normalised, delta: Known, seen: Released, guess: Known | None) -> Known:
    """The slope at the output of a layer less what its input's moments take of it.

    d - mean(d) - z mean(d z), where z is the normalised input, sum(d) the gradient of the layer's bias, and sum(d z)
    that of its weight. Before there is a `guess` of its input z is 0, give or take 1.

    Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3.
    """
    z, variance = np.zeros(delta.value.size), np.ones(delta.value.size)
    if guess is not None:
        z, variance = own(guess.value), guess.variance / np.repeat(own.deviation, own.positions) ** 2
    totals = {"bias": delta.value, "weight": delta.value * z}
    mean, along = (
        np.repeat(seen.gradients.get(f"{layer.name}.{kind}", each.reshape(-1, own.positions).sum(1)), own.positions)
        / own.positions
        for kind, each in totals.items()
    )
    value = delta.value - mean - z * along
    return Known(value, delta.variance + along**2 * np.minimum(variance, 1.0) + (ROUNDING * value) ** 2)


def _add_means(normal: Array, right: Array, own: Normalised, before: tuple[Any, Array]) -> None:
    """Add mean(layer's input) by channel to the normal equations, in place."""
    matrix, offset = before
    over = sp.kron(sp.eye_array(len(own.mean)), np.full((1, own.positions), 1 / own.positions)).tocsr()
    rows, values = (over @ matrix).toarray(), own.mean - over @ offset
    weight = 1 / (ROUNDING * own.deviation) ** 2
    normal += (rows.T * weight) @ rows
    right += rows.T @ (weight * values)


def _with_bias(layer: Affine, delta: Known, seen: Released) -> Known:
    """The slope at a layer's output joined with its bias's gradient, where every output has a bias of its own."""
    name = f"{layer.name}.bias"
    if name not in seen.gradients or seen.gradients[name].size != delta.value.size:
        return delta
    variance = seen.deviations[name] ** 2
    share = delta.variance / (delta.variance + variance)
    return Known(delta.value + share * (seen.gradients[name] - delta.value), share * variance)


def _add_weight_equations(
    normal: Array, right: Array, layer: Affine, before: tuple[Any, Array], delta: Known, seen: Released, square: float
) -> None:
    """Add dL/dW = correlation(layer's input, delta) to the normal equations, in place.

    An input channel meets the same coefficients as every other of its group, so that one small matrix serves them all.
    `square` is the mean square of the layer's input.
    """
    assert layer.taps is not None
    assert layer.kernel is not None
    out, inside, taps = layer.kernel
    gradient = seen.gradients[f"{layer.name}.weight"].reshape(out, inside, taps)
    variance = seen.deviations[f"{layer.name}.weight"] ** 2
    slope, doubt = delta.value.reshape(out, -1), delta.variance.reshape(out, -1)
    matrix, offset = before
    direct = _is_identity(matrix)
    per = out // layer.groups
    for group in range(layer.groups):
        mine = slice(group * per, (group + 1) * per)
        rows, errors = np.zeros((per, taps, layer.pixels)), np.zeros((per, taps))
        for tap, pixel in enumerate(layer.taps):
            inner = pixel >= 0
            rows[:, tap, pixel[inner]] = slope[mine][:, inner]
            errors[:, tap] = variance + square * doubt[mine][:, inner].sum(1)
        flat, weight = rows.reshape(-1, layer.pixels), 1 / errors.ravel()
        gram = (flat.T * weight) @ flat
        for channel in range(inside):
            at = (group * inside + channel) * layer.pixels
            part = slice(at, at + layer.pixels)
            values = gradient[mine, channel].ravel()
            if direct:
                normal[part, part] += gram
                right[part] += flat.T @ (weight * values)
            else:
                one = matrix[part]
                normal += one.T @ (one.T @ gram).T
                right += one.T @ (flat.T @ (weight * (values - flat @ offset[part])))


def _is_identity(matrix: Any) -> bool:
    return bool(matrix.nnz == matrix.shape[0] == matrix.shape[1] and (matrix.diagonal() == 1).all())


def _posterior(normal: Array, right: Array, maps: Sequence[Any]) -> tuple[Known, list[Array]]:
    """Mean and variances of the Gaussian with precision `normal`, and the variances of linear `maps` (n, k) of it.

    By Cholesky with one step of refinement.
    Where rounding leaves `normal` indefinite, the least power of ten that helps is added to its diagonal.
    """
    scale = 1 / np.sqrt(normal.diagonal())
    whole = torch.from_numpy(normal * scale * scale[:, None])
    target = torch.from_numpy(right * scale)[:, None]
    factor, failed = torch.linalg.cholesky_ex(whole)
    jitter = 1e-15
    while bool(failed):
        factor, failed = torch.linalg.cholesky_ex(whole + jitter * torch.eye(len(whole), dtype=whole.dtype))
        jitter *= 10
    x = torch.cholesky_solve(target, factor)
    x += torch.cholesky_solve(target - whole @ x, factor)
    inverse, _ = dtrtri(factor.numpy().T, lower=0, overwrite_c=1)  # half the work of the whole inverse
    of_maps = [np.square((each * scale) @ inverse).sum(1) for each in maps]
    return Known(x[:, 0].numpy() * scale, np.square(inverse).sum(1) * scale**2), of_maps
