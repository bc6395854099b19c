"""What a client computes: pure functions of a model, a batch, a chain of defences and a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.observation import Tensors


@dataclass(frozen=True)
class Party:
    """One client of a simulation: its model, its data and its defences, as functions of public names.

    `model()` builds the architecture (its weights come over the wire); `batch(client, round)` gives inputs (B, C, H, W)
    in [0, 1] and labels (B,), the same on every call; `seed` names the client's random streams.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[int, int], tuple[Tensor, Tensor]]
    chain: Chain
    seed: int


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensors, float]:
    """The batch gradient of the mean cross entropy, by parameter name, and the loss, before any defence.

    `model` runs in the mode it is in; x (B, C, H, W), y (B,) int64. A parameter that the loss does not reach has a zero
    gradient.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    released = {
        name: torch.zeros_like(parameter) if g is None else g
        for name, parameter, g in zip(names, parameters, gradients, strict=True)
    }
    return released, float(loss.detach())


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 500) -> tuple[float, float]:
    """Top-1 accuracy in [0, 1] and mean cross entropy of `model` in eval mode on inputs (N, C, H, W), labels (N,)."""
    was_training = model.training
    model.eval()
    hits, loss = 0, 0.0
    for x, y in zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True):
        logits = model(x)
        hits += int((logits.argmax(1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
    model.train(was_training)
    return hits / len(labels), loss / len(labels)
