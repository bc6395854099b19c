"""An update of several local steps as one gradient, taken at a point between the weights before and after."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.federated.local_training import normalised
from fl_privacy.observation import ChannelName, LocalTraining, Observation
from fl_privacy.weights import trainable


def is_gradient(seen: Observation) -> bool:
    """Whether a message is a gradient of all its examples, times a number."""
    return seen.channel is ChannelName.GRADIENT or seen.spec.local.sends_gradient(seen.examples)


def step_factor(local: LocalTraining, steps: int) -> float:
    """How often a gradient enters an update, over the number of steps: 1 without momentum, at most 1 / (1 - momentum).

    Every step adds its gradient to the velocity, which all later steps follow once more, by `momentum` less each time.
    """
    return sum((steps - age) * local.momentum**age for age in range(steps)) / steps


def between(seen: Observation, share: float) -> Observation:
    """`seen` as an update of one plain step from the received weights plus `share` of the update; itself if it is one.

    At share 0 that is the raw update taken for a gradient. At one half the gradient stands for those of all steps with
    an error of second order in the length of the path, whatever the order of the mini-batches. Momentum is a factor,
    weight decay and FedProx's pull, which are known there, are taken off, and a normalisation becomes the model's own.
    Adam's steps are no gradients, and stay what they are.

    Raises:
        ValueError: the clients minimise another loss than cross entropy.

    Source: Zhu et al. 2023, Surrogate model extension (arXiv 2306.00127), section 3.
    """
    local = seen.spec.local
    if is_gradient(seen):
        return seen
    if local.loss != "cross_entropy":
        raise ValueError(
            f"the clients minimise '{local.loss}', and what reads a gradient expects cross entropy: use an attack that "
            "simulates the client's local training, such as 'map'"
        )
    assert seen.model is not None
    model, steps = copy.deepcopy(seen.model), local.steps_on(seen.examples)
    rate = local.learning_rate * steps * step_factor(local, steps)
    payload = dict(seen.payload)
    with torch.no_grad():
        for name, value in trainable(model).items():
            change = seen.payload[name].to(value)
            value.add_(share * change)
            payload[name] = seen.payload[name] + rate * (
                local.weight_decay * value + local.proximal * share * change
            ).to(seen.payload[name])
    if local.normalise is not None:
        model.register_forward_pre_hook(_Normalise(local))
    plain = LocalTraining(learning_rate=rate, mode=local.mode)
    return replace(seen, model=model, payload=payload, spec=replace(seen.spec, local=plain))


class _Normalise:
    """A hook that normalises a model's inputs; a class, so that the model can still be copied."""

    def __init__(self, local: LocalTraining) -> None:
        self.local = local

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return (normalised(inputs[0], self.local), *inputs[1:])
