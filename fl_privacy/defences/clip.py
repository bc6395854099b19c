"""Norm clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


@DEFENCES.register("clip")
@dataclass(frozen=True)
class Clip(Defence):
    """Scales the payload down to an L2 norm of at most `norm`, over all its tensors together; infinity changes nothing.

    Source: Abadi et al. 2016, algorithm 1, applied to the batch's release and not to each example.
    """

    norm: float = math.inf

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"norm must be above 0 (infinity clips nothing), not {self.norm}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return self.without_noise(payload)

    def norm_bound(self, before: float) -> float:
        return min(self.norm, before)

    def without_noise(self, payload: Tensors) -> Tensors:
        if math.isinf(self.norm) or not payload:
            return payload
        total = torch.stack([value.float().square().sum() for value in payload.values()]).sum().sqrt()
        if not total > self.norm:
            return payload
        return {name: value * (self.norm / total).to(value.dtype) for name, value in payload.items()}
