"""Additive noise on whatever is released."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


def _check_scale(scale: float) -> None:
    if not 0 <= scale < float("inf"):
        raise ValueError(f"scale must be a finite number of at least 0 (0 adds nothing), not {scale}")


@DEFENCES.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(Defence):
    """Adds independent N(0, scale^2) to every released value; `scale` is in the payload's unit, 0 changes nothing."""

    scale: float = 0.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.scale == 0:
            return payload
        return {
            name: value + self.scale * torch.randn(value.shape, generator=rng, dtype=value.dtype).to(value.device)
            for name, value in payload.items()
        }


@DEFENCES.register("laplace_noise")
@dataclass(frozen=True)
class LaplaceNoise(Defence):
    """Adds independent Laplace(0, scale) to every released value; its standard deviation is sqrt(2) scale.

    Source: Titcombe et al. 2021, section 3 (there on activations).
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.scale == 0:
            return payload
        noisy = {}
        for name, value in payload.items():
            # the difference of two exponential draws is Laplace, and has no log(0) to guard
            first, second = (torch.empty(value.shape, dtype=value.dtype).exponential_(generator=rng) for _ in range(2))
            noisy[name] = value + self.scale * (first - second).to(value.device)
        return noisy


@DEFENCES.register("uniform_noise")
@dataclass(frozen=True)
class UniformNoise(Defence):
    """Adds independent noise from U(-scale, scale) to every released value; its standard deviation is scale / sqrt(3).

    Source: Vepakomma et al. 2020, the baseline of section 4.
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.scale == 0:
            return payload
        noisy = {}
        for name, value in payload.items():
            draws = 2 * torch.rand(value.shape, generator=rng, dtype=value.dtype) - 1
            noisy[name] = value + self.scale * draws.to(value.device)
        return noisy
