"""Quantised values with the gradient of something smooth, so that an adversary can descend through them."""

from __future__ import annotations

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another; adding a difference instead would not keep the bits."""

    generate_vmap_rule = True

    @staticmethod
    def forward(smooth: Tensor, quantised: Tensor) -> Tensor:
        return quantised.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(smooth: Tensor, quantised: Tensor) -> Tensor:
    """`quantised`, bit for bit, with the gradient of `smooth`, both of one shape.

    Source: Bengio, Léonard and Courville 2013 (arXiv 1308.3432), section 2.
    """
    out: Tensor = _StraightThrough.apply(smooth, quantised)
    return out
