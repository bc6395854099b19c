"""Monotone activations backwards: from a value that is known up to an error to what went in, and to the slope there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]

FEW = 4.0
"""Standard errors within which a value counts as either side of a kink."""


@dataclass(frozen=True)
class Inverse:
    """At a = f(z): `z`; its error variance, infinite where a says nothing of it; f'(z), with its own variance."""

    z: Array
    variance: Array
    slope: Array
    slope_variance: Array


def _sigmoid(module: nn.Module, a: Array, variance: Array) -> Inverse:
    edge = np.clip(np.sqrt(variance), 1e-12, 0.5)
    a = np.clip(a, edge, 1 - edge)
    slope = a * (1 - a)
    return Inverse(np.log(a / (1 - a)), variance / slope**2, slope, (1 - 2 * a) ** 2 * variance)


def _tanh(module: nn.Module, a: Array, variance: Array) -> Inverse:
    edge = np.clip(np.sqrt(variance), 1e-12, 1.0)
    a = np.clip(a, edge - 1, 1 - edge)
    slope = 1 - a**2
    return Inverse(np.arctanh(a), variance / slope**2, slope, 4 * a**2 * variance)


def _leaky_relu(module: nn.Module, a: Array, variance: Array) -> Inverse:
    assert isinstance(module, nn.LeakyReLU)
    steep = module.negative_slope
    slope = np.where(a > 0, 1.0, steep)
    either = np.abs(a) < FEW * np.sqrt(variance) * slope
    return Inverse(a / slope, variance / slope**2, slope, np.where(either, (1 - steep) ** 2, 0.0))


def _relu(module: nn.Module, a: Array, variance: Array) -> Inverse:
    deviation = np.sqrt(variance)
    fires = a > FEW * deviation
    either = np.abs(a) < 2 * FEW * deviation
    return Inverse(a, np.where(fires, variance, np.inf), fires.astype(float), np.where(either & fires, 1.0, 0.0))


INVERSES: dict[type[nn.Module], Callable[[nn.Module, Array, Array], Inverse]] = {
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
    nn.LeakyReLU: _leaky_relu,
    nn.ReLU: _relu,
}
"""By activation: (module, values a, their error variance) to what went in. ReLU's zeros say nothing of what went in."""


def invertible(module: nn.Module) -> bool:
    """Whether what went into `module` can be read from what came out (of a ReLU: where it fires)."""
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope > 0
    return type(module) in INVERSES
