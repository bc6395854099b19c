"""Norm clipping of every image's own release."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


@DEFENCES.register("clip_each")
@dataclass(frozen=True)
class ClipEach(Defence):
    """Scales every row of a payload's tensors, one image's activations or outputs, down to a norm of at most `norm`.

    `order` 2 is the Euclidean norm, which Gaussian noise goes with, 1 the sum of magnitudes, Laplace noise's; infinity
    changes nothing. Rows are clipped one by one, so that noise after it hides what one image is from another
    (`accounting.release_guarantee`).

    Source: the sensitivity of Dwork and Roth 2014 (The algorithmic foundations of differential privacy), sections 3.3
    and A, of one row.
    """

    norm: float = math.inf
    order: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"norm must be above 0 (infinity clips nothing), not {self.norm}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return self.without_noise(payload)

    def without_noise(self, payload: Tensors) -> Tensors:
        if math.isinf(self.norm):
            return payload
        return {name: self._clipped(value) for name, value in payload.items()}

    def _clipped(self, value: Tensor) -> Tensor:
        if value.numel() == 0 or value.ndim == 0:
            return value
        rows = value.reshape(len(value), -1)
        size = torch.linalg.vector_norm(rows.float(), self.order, dim=1, keepdim=True)
        share = torch.where(size > self.norm, self.norm / size.clamp_min(1e-30), torch.ones_like(size))
        clipped: Tensor = (rows * share.to(value.dtype)).view_as(value)
        return clipped
