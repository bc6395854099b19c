"""Additive noise on whatever is released."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


@dataclass(frozen=True)
class AdditiveNoise(Defence):
    """Adds `scale` times independent draws of a law to every released value; 0 changes nothing.

    Raises:
        ValueError: `scale` is negative, infinite or NaN.
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be a finite number of at least 0 (0 adds nothing), not {self.scale}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.scale == 0:
            return payload
        return {name: value + self.scale * self.draw(value, rng).to(value.device) for name, value in payload.items()}

    @abstractmethod
    def draw(self, value: Tensor, rng: torch.Generator) -> Tensor:
        """Draws at scale 1 with the shape and dtype of `value`, on the CPU."""


@DEFENCES.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(AdditiveNoise):
    """Adds independent N(0, scale^2) to every released value; `scale` is in the payload's unit, 0 changes nothing."""

    @property
    def gaussian_scale(self) -> float:
        return self.scale

    def draw(self, value: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(value.shape, generator=rng, dtype=value.dtype)


@DEFENCES.register("laplace_noise")
@dataclass(frozen=True)
class LaplaceNoise(AdditiveNoise):
    """Adds independent Laplace(0, scale) to every released value; its standard deviation is sqrt(2) scale.

    Source: Titcombe et al. 2021, section 3 (there on activations).
    """

    def draw(self, value: Tensor, rng: torch.Generator) -> Tensor:
        # the difference of two exponential draws is Laplace, and has no log(0) to guard
        first, second = (torch.empty(value.shape, dtype=value.dtype).exponential_(generator=rng) for _ in range(2))
        return first - second


@DEFENCES.register("uniform_noise")
@dataclass(frozen=True)
class UniformNoise(AdditiveNoise):
    """Adds independent noise from U(-scale, scale) to every released value; its standard deviation is scale / sqrt(3).

    Source: Vepakomma et al. 2020, the baseline of section 4.
    """

    def draw(self, value: Tensor, rng: torch.Generator) -> Tensor:
        return 2 * torch.rand(value.shape, generator=rng, dtype=value.dtype) - 1
