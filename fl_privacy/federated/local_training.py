"""Local training: the one rule by which clients train, and by which attackers simulate what they did."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.federated.client import LossOf, SlopeOf, gradient
from fl_privacy.observation import LocalTraining, Tensors
from fl_privacy.weights import trainable

BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's, as torch has them
TINY = 1e-30
"""Keeps the slope of a root finite where a weight has had no gradient yet: an attacker differentiates through it."""
Slope = Callable[[Tensors, int], Tensors]
"""The gradient, by parameter name, at these weights on the mini-batch of this step (from 0)."""


def local_train(start: Tensors, slope: Slope, steps: int, local: LocalTraining) -> Tensors:
    """The weights after `steps` steps from `start`: pure and differentiable, for clients and for their attackers.

    `slope` computes the gradients, each side in its own way; all that happens to them is here: weight decay, FedProx's
    pull to `start`, momentum, Adam. Parameters by name, in any order.

    Source: torch.optim.SGD and Adam, to which it is equal; Li et al. 2020, FedProx, equation 2.
    """
    weights, memory = start, dict[str, tuple[Tensor, ...]]()
    for step in range(steps):
        slopes = slope(weights, step)
        moved = {}
        for name, value in weights.items():
            pulled = slopes[name]
            if local.weight_decay:
                pulled = pulled + local.weight_decay * value
            if local.proximal:
                pulled = pulled + local.proximal * (value - start[name])
            direction, memory[name] = _direction(pulled, memory.get(name), step + 1, local)
            moved[name] = value - local.learning_rate * direction
        weights = moved
    return weights


def _direction(
    slope: Tensor, memory: tuple[Tensor, ...] | None, step: int, local: LocalTraining
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Where one parameter goes, and what its optimiser remembers of it; `step` counts from 1."""
    if local.optimiser == "adam":
        mean, square = memory or (torch.zeros_like(slope), torch.zeros_like(slope))
        mean = BETAS[0] * mean + (1 - BETAS[0]) * slope
        square = BETAS[1] * square + (1 - BETAS[1]) * slope.square()
        root = (square / (1 - BETAS[1] ** step) + TINY).sqrt()
        return mean / (1 - BETAS[0] ** step) / (root + EPS), (mean, square)
    if not local.momentum:
        return slope, ()
    velocity = slope if not memory else local.momentum * memory[0] + slope
    return velocity, (velocity,)


def minibatches(local: LocalTraining, examples: int, rng: torch.Generator | None) -> list[Tensor]:
    """The positions (b,) of the examples of every step.

    The first epoch takes the examples in the order in which they come (a round's examples are drawn), each later one in
    an order from `rng`; without one, in the same. Where an epoch is a single batch nothing is drawn.
    """
    size = local.batch_size or examples
    taken: list[Tensor] = []
    while len(taken) < local.steps_on(examples):
        shuffled = rng is not None and taken and size < examples
        order = torch.randperm(examples, generator=rng) if shuffled else torch.arange(examples)
        taken += torch.split(order, size)
    return taken[: local.steps_on(examples)]


def train_locally(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    local: LocalTraining,
    rng: torch.Generator,
    slope_of: SlopeOf = gradient,
) -> float:
    """Train `model`, in place, on images x (N, C, H, W) in [0, 1] and labels y (N,); the loss before the first step.

    `slope_of` computes the gradient of every step (`example_gradients.gradient_under`).
    """
    if local.mode == "eval":
        model.eval()
    parameters, parts, losses = trainable(model), minibatches(local, len(x), rng), list[float]()
    x = normalised(x, local)
    loss_of = LOSSES[local.loss]

    def slope(weights: Tensors, step: int) -> Tensors:
        _write(parameters, weights)
        part = parts[step].to(x.device)
        found, loss = slope_of(model, x[part], y[part], loss_of)
        losses.append(loss)
        return found

    start = {name: value.detach().clone() for name, value in parameters.items()}
    _write(parameters, local_train(start, slope, len(parts), local))
    return losses[0]


@torch.no_grad()
def _write(parameters: dict[str, nn.Parameter], weights: Tensors) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def normalised(images: Tensor, local: LocalTraining) -> Tensor:
    """Images (..., C, H, W) less the means and over the deviations of `local`, where it has any."""
    if local.normalise is None:
        return images
    mean, deviation = (images.new_tensor(each).view(-1, 1, 1) for each in local.normalise)
    return (images - mean) / deviation


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """The squared distance of logits (B, classes) from label probabilities (B, classes), summed over classes; mean."""
    return (logits - targets).square().sum(1).mean()


def _squared_error_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return squared_error(logits, F.one_hot(labels, logits.shape[1]).to(logits))


LOSSES: dict[str, LossOf] = {
    "cross_entropy": F.cross_entropy,
    "squared_error": _squared_error_of_labels,
}
"""By the name in `LocalTraining.loss`."""
