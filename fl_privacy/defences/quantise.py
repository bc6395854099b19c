"""Quantisation with stochastic rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.defences.straight_through import straight_through
from fl_privacy.observation import Tensors

WHOLE = 32
"""The bits of the numbers that are released without quantisation."""


@DEFENCES.register("quantise")
@dataclass(frozen=True)
class Quantise(Defence):
    """Rounds each tensor at random, without bias, to a grid of 2^bits - 1 values up to its largest magnitude.

    A value becomes one of its two neighbours on the grid, the nearer one more often, so that its mean is itself. Of 2
    `bits` only signs and zeros are left, 32 change nothing. Gradients pass straight through.

    Source: Alistarh et al. 2017, QSGD (arXiv 1610.02132), section 3.1, scaled by the largest magnitude as in its
    experiments; of 2 bits it is TernGrad (Wen et al. 2017).
    """

    bits: int = WHOLE

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 16 or self.bits == WHOLE):
            raise ValueError(f"bits must be 2 to 16, or {WHOLE} for no change, not {self.bits}; 1 bit is 'sign'")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.bits == WHOLE:
            return payload
        return {name: self._rounded(value, rng) for name, value in payload.items()}

    def hidden_variance(self, released: Tensors) -> Tensors | None:
        """At most a sixth of a squared step, as if values lay anywhere between grid points; less where most are near 0.

        A value v with |v| below a step has a variance below |v| steps, and the release has the mean |v| without bias.
        """
        if self.bits == WHOLE:
            return None
        found = {}
        for name, value in released.items():
            step = self._step(value)
            size = value.abs().mean() if value.numel() else step
            found[name] = torch.minimum(step**2 / 6, step * size)
        return found

    def _step(self, value: Tensor) -> Tensor:
        """The distance of two grid points (0-d): a release has the same as what it was made of."""
        largest = value.detach().abs().amax() if value.numel() else value.new_zeros(())
        step: Tensor = largest / (2 ** (self.bits - 1) - 1)
        return step

    def _rounded(self, value: Tensor, rng: torch.Generator) -> Tensor:
        step, dither = self._step(value), torch.rand(value.shape, generator=rng, dtype=value.dtype).to(value.device)
        if not step > 0:
            return value
        levels = 2 ** (self.bits - 1) - 1
        return straight_through(value, (value.detach() / step + dither).floor().clamp(-levels, levels) * step)
