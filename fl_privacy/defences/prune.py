"""Top-k pruning: only the largest values are released."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


@DEFENCES.register("prune")
@dataclass(frozen=True)
class Prune(Defence):
    """Keeps the `share` of each tensor's values that is largest in magnitude, rounded up; the rest is 0. 1 keeps all.

    Tensor by tensor, as published code of gradient compression and of attacks on it does, not over all together.
    Nothing is kept back for later rounds. A release shows which values were pruned; an adversary compares the others.

    Source: Lin et al. 2018, Deep Gradient Compression (arXiv 1712.01887), section 3; as a defence Zhu et al. 2019, Deep
    Leakage from Gradients, section 5.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1 (1 prunes nothing), not {self.share}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return self.without_noise(payload)

    def without_noise(self, payload: Tensors) -> Tensors:
        if self.share == 1:
            return payload
        return {name: torch.where(self._largest(value), value, 0.0) for name, value in payload.items()}

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        if self.share == 1:
            return payload
        return {name: torch.where(self._kept(value, released[name]), value, 0.0) for name, value in payload.items()}

    def norm_bound(self, before: float) -> float:
        return before

    def _kept(self, value: Tensor, released: Tensor) -> Tensor:
        """What a release shows to have been kept; what `value` would keep, where a later noise hides it."""
        shown = released != 0
        return shown if int(shown.sum()) <= self._count(released) else self._largest(value)

    def _largest(self, value: Tensor) -> Tensor:
        chosen = value.detach().abs().flatten().topk(self._count(value)).indices
        mask = torch.zeros(value.numel(), dtype=torch.bool, device=value.device)
        mask[chosen] = True
        return mask.view(value.shape)

    def _count(self, value: Tensor) -> int:
        return math.ceil(self.share * value.numel())
