"""Signs alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.defences.straight_through import straight_through
from fl_privacy.observation import Tensors


@DEFENCES.register("sign", always_acts=True)
@dataclass(frozen=True)
class Sign(Defence):
    """Releases the sign of each value times `scale`; 0 takes the mean magnitude of its tensor instead.

    An adversary's guess has the gradient of scale tanh(value / mean magnitude), so that values near 0 can change sign.

    Source: Bernstein et al. 2018, signSGD (arXiv 1802.04434), algorithm 1; the mean magnitude is that of Karimireddy
    et al. 2019 (arXiv 1901.09847), algorithm 1, without its memory.
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be a finite number of at least 0 (0: mean magnitude), not {self.scale}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return self.without_noise(payload)

    def without_noise(self, payload: Tensors) -> Tensors:
        return {name: self._signs(value) for name, value in payload.items()}

    def norm_bound(self, before: float) -> float:
        """Signs times the mean magnitude have at most the norm of what they were made of."""
        return before if self.scale == 0 else float("inf")

    def _signs(self, value: Tensor) -> Tensor:
        if not value.numel():
            return value
        mean = value.abs().mean()
        size = torch.full_like(mean, self.scale) if self.scale else mean
        return straight_through(
            size * (value / mean.clamp_min(torch.finfo(value.dtype).tiny)).tanh(), size * value.sign()
        )
