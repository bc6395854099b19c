"""What a client computes: pure functions of a model, a batch, a chain of defences and a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.observation import Tensors
from fl_privacy.weights import moving_statistics, trainable

LossOf = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, classes), labels (B,)) to a scalar."""


@dataclass(frozen=True)
class ClientTask:
    """One client of a simulation: its model, its data and its defences, as functions of public names.

    `model()` builds the architecture (its weights come over the wire); `batch(client, round)` gives inputs (B, C, H, W)
    in [0, 1] and labels (B,), the same on every call; `seed` names the client's random streams. It computes on
    `device`, and draws on the CPU.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[int, int], tuple[Tensor, Tensor]]
    chain: Chain
    seed: int
    device: str = "cpu"


class SlopeOf(Protocol):
    """How a client computes a gradient: `gradient`, or one that a defence makes of its examples' own."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, loss_of: LossOf = F.cross_entropy
    ) -> tuple[Tensors, float]: ...


def gradient(model: nn.Module, x: Tensor, y: Tensor, loss_of: LossOf = F.cross_entropy) -> tuple[Tensors, float]:
    """The batch gradient of the mean loss, cross entropy unless said, by parameter name, and the loss, undefended.

    Every module of `model` runs in the mode it is in; x (B, C, H, W), y (B,) int64. A parameter that the loss does not
    reach has a zero gradient, a frozen one (requires_grad False) has none.

    Raises:
        ValueError: the model returns no logits, or all of it is frozen.
    """
    names, parameters = zip(*trainable(model).items(), strict=True)
    loss = loss_of(logits(model, x), y)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    released = {
        name: torch.zeros_like(parameter) if g is None else g
        for name, parameter, g in zip(names, parameters, gradients, strict=True)
    }
    return released, float(loss.detach())


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """What `model` makes of images (B, C, H, W): logits (B, classes).

    Raises:
        ValueError: it returns something else, such as a tuple or a dictionary.
    """
    out: object = model(x)
    if isinstance(out, Tensor):
        return out
    raise ValueError(
        f"the model returns a {type(out).__name__}, and training and attacks need its logits, one tensor "
        "(images, classes): let a wrapper's forward pick them, such as `return self.net(x)[0]` for a tuple or "
        "`return self.net(x).logits` for an output of transformers"
    )


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 500) -> tuple[float, float]:
    """Top-1 accuracy in [0, 1] and mean cross entropy of `model` in eval mode on inputs (N, C, H, W), labels (N,).

    Every module is afterwards in the mode in which it was.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    hits, loss = 0, 0.0
    for x, y in zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True):
        scores = logits(model, x)
        hits += int((scores.argmax(1) == y).sum())
        loss += float(F.cross_entropy(scores, y, reduction="sum"))
    for module, training in modes.items():
        module.training = training
    return hits / len(labels), loss / len(labels)


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Tensor, batch: int = 500) -> bool:
    """Set the running statistics of batch normalisation, in place, to those of inputs (N, C, H, W); whether it has any.

    For a server that receives gradients and no statistics. Layers that their model keeps in eval mode keep theirs; all
    others run as in evaluation. The statistics are the means over equal batches of at most `batch` images.

    Source: Li et al. 2018, AdaBN (arXiv 1603.04779); Nado et al. 2020 (arXiv 2006.10963).
    """
    layers = moving_statistics(model)
    if not layers:
        return False
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    model.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the plain mean over batches
    for x in torch.chunk(inputs, -(-len(inputs) // batch)):  # of equal size: a batch of one has no variance
        model(x)
    for module, training in modes.items():
        module.training = training
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    return True
