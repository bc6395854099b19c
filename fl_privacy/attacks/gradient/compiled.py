"""An attack's objective with both its derivatives, traced once and compiled by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Evaluated = tuple[Tensor, Tensor, Tensor]
"""Losses (V,), images (V, B, C, H, W) and label logits (V, B, classes)."""
Compiled = Callable[..., tuple[Tensor, ...]]


def compiled(guesses: nn.Module, judged: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Evaluated]:
    """What evaluates `guesses` wherever its parameters are: losses (V,), images and label logits, in one compiled call.

    `judged` takes images (V, B, C, H, W) and label logits (V, B, classes) to the losses (V,); it is traced here, once,
    and must not choose its way by their values. Each parameter has V as its first dimension, and no victim's guess
    depends on another's: the slopes of all losses are those of their sum.

    Raises:
        ValueError: torch cannot trace or compile it.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # here, because it imports torch's compiler

    names = [name for name, _ in guesses.named_parameters()]

    def both(*at: Tensor) -> tuple[Tensor, ...]:
        leaves = [each.detach().requires_grad_() for each in at]
        images, logits = functional_call(guesses, dict(zip(names, leaves, strict=True)))
        losses = judged(images, logits)
        slopes = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        return (losses.detach(), images.detach(), logits.detach(), *slopes)

    at = [parameter.detach() for parameter in guesses.parameters()]
    try:
        fast: Compiled = torch.compile(make_fx(both)(*at))
        fast(*at)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            "torch cannot compile this attack on this model: it needs a C++ compiler (on a GPU: Triton), and a model "
            f"that does not choose its way by the values it computes. Leave out `compiled`. torch says: {error}"
        ) from error
    return lambda: _WithSlopes.apply(fast, *guesses.parameters())


class _WithSlopes(torch.autograd.Function):
    """Losses whose slopes are there already; images and logits pass without any."""

    @staticmethod
    def forward(ctx: Any, fast: Compiled, *at: Tensor) -> Evaluated:
        losses, images, logits, *slopes = fast(*(each.detach() for each in at))
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(images, logits)
        return losses, images, logits

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(slope * given[0].view(-1, *[1] * (slope.dim() - 1)) for slope in ctx.saved_tensors)
