"""Adversarial training of the client segment against an inversion decoder of the client's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.defences.base import DEFENCES
from fl_privacy.defences.learning import LearningDefence
from fl_privacy.models.activation_decoders import ConvolutionalDecoder


@DEFENCES.register("adversarial_cut")
@dataclass(frozen=True)
class AdversarialCut(LearningDefence):
    """Trains the segment against a decoder that learns beside it: the client's loss less `weight` times its error.

    Both move at once, by a reversed gradient: the decoder (`width` channels in `blocks` residual blocks) down its mean
    squared error, the segment up it. Acts through training only: what a trained client releases is untouched. 0 adds
    nothing. No bottleneck, and no second stage in which the segment is handed to other tasks.

    Source: Li et al. 2022 (ResSFL, CVPR), section 4.1, attacker-aware training; they alternate the two steps, and
    measure the error by MSE or SSIM.
    """

    weight: float = 0.0
    learning_rate: float = 3e-3
    width: int = 16
    blocks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be a finite number of at least 0 (0 adds nothing), not {self.weight}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be finite and above 0, not {self.learning_rate}")
        if self.width < 1 or self.blocks < 0:
            raise ValueError(f"width must be at least 1 and blocks at least 0, not {self.width} and {self.blocks}")

    def module(self, image_shape: tuple[int, ...], released_shape: tuple[int, ...]) -> nn.Module | None:
        if self.weight == 0:
            return None
        channels, height, width = image_shape
        return ConvolutionalDecoder(released_shape, (channels, height, width), self.width, self.blocks)

    def extra_loss(self, x: Tensor, released: Tensor) -> Tensor | None:
        if self.learnt is None:
            return None
        # the same value, whose gradient goes back reversed and `weight` times as large
        reverse = (1 + self.weight) * released.detach() - self.weight * released
        return F.mse_loss(self.learnt(reverse), x)
