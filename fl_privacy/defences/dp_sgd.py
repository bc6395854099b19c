"""DP-SGD: every example's gradient is clipped, and noise is added to their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors


@DEFENCES.register("dp_sgd")
@dataclass(frozen=True)
class DPSGD(Defence):
    """Scales each example's gradient down to an L2 norm of `norm`, over all tensors, and adds noise to the sum of all.

    The noise is N(0, (noise_multiplier norm)^2) on every value, and the sum is divided by the number of examples. Local
    training does so in every step. An infinite norm without noise changes nothing. Models whose layers mix examples, as
    batch normalisation does, are refused.

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy (arXiv 1607.00133), algorithm 1.
    """

    norm: float = math.inf
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"norm must be above 0 (infinity clips nothing), not {self.norm}")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be a finite number of at least 0, not {self.noise_multiplier}")
        if self.noise_multiplier and math.isinf(self.norm):
            raise ValueError(
                "noise_multiplier is in units of norm, which is infinite: without a clip no noise hides an example. "
                "Set norm, such as the median norm of examples' gradients; or take 'gaussian_noise', which has a scale"
            )

    @property
    def by_example(self) -> bool:
        return not math.isinf(self.norm)

    def on_example_gradients(self, gradients: Tensors, rng: torch.Generator) -> Tensors:
        factor = self._factor(gradients)
        mean = _mean(gradients, factor)
        if self.noise_multiplier:
            scale = self.noise_multiplier * self.norm / max(1, len(factor))
            mean = {
                name: value + scale * torch.randn(value.shape, generator=rng, dtype=value.dtype).to(value.device)
                for name, value in mean.items()
            }
        return mean

    def clipped_share(self, gradients: Tensors) -> float:
        factor = self._factor(gradients)
        return float((factor < 1).double().mean()) if len(factor) else 0.0

    def mean_of_examples(self, gradients: Tensors) -> Tensors:
        return _mean(gradients, self._factor(gradients))

    @property
    def example_noise(self) -> float:
        return self.noise_multiplier

    def norm_bound(self, before: float) -> float:
        return before

    def _factor(self, gradients: Tensors) -> Tensor:
        """What each example's gradient is multiplied by (B,): 1 where its norm is within the bound."""
        squares = torch.stack([value.reshape(len(value), -1).square().sum(1) for value in gradients.values()]).sum(0)
        # the slope of a root is infinite at 0, and an adversary differentiates through it
        norms = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        return (self.norm / norms).clamp_max(1.0)


def _mean(gradients: Tensors, factor: Tensor) -> Tensors:
    count = max(1, len(factor))
    return {
        name: (value * factor.view(-1, *[1] * (value.dim() - 1))).sum(0) / count for name, value in gradients.items()
    }
