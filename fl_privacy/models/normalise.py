"""Input normalisation as the first stage of a model, so that every party speaks of pixels in [0, 1]."""

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std per channel: (N, C, H, W) in [0, 1] in, the same shape out; one value serves every channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean {mean} and std {std} must be of one length, with every std above 0")
        # not persistent: they are constants of the architecture, not weights that a round would average
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
