"""A released gradient by parameter name, in float64, with the error that the adversary expects in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.attacks.gradient.known_noise import noise_deviation
from fl_privacy.attacks.gradient.matching import gradient_unit, observed_gradient
from fl_privacy.observation import ChannelName, Observation
from fl_privacy.weights import trainable

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Released:
    """Gradients by parameter name, each with one standard error for all its entries."""

    gradients: Mapping[str, Array]
    deviations: Mapping[str, float]

    def divided(self, scale: float) -> Released:
        """As it would be without a factor `scale` on everything."""
        return Released(
            {name: value / scale for name, value in self.gradients.items()},
            {name: value / scale for name, value in self.deviations.items()},
        )


def released(seen: Observation) -> Released:
    """The gradient that an observation holds and its error: rounding, and the noise of the defence that is known.

    Rounding counts as the dtype's machine epsilon times a tensor's root mean square; an update is the difference of two
    weights, and has the rounding of these.

    Raises:
        ValueError: as `matching.observed_gradient`, or an update is more than one plain step on all examples.
    """
    assert seen.model is not None
    if seen.channel is ChannelName.UPDATE and not seen.spec.local.sends_gradient(seen.spec.batch_size):
        raise ValueError(
            "closed forms read one gradient, and this update is of several steps, or of one that is not plain SGD on "
            "the cross entropy: use an attack that simulates the client's local training"
        )
    observed_gradient(seen)  # for its checks
    unit = gradient_unit(seen)
    trained = trainable(seen.model)
    payload = {name: seen.payload[name].cpu() for name in trained}
    sizes = [value.numel() for value in payload.values()]
    noise = noise_deviation(seen)
    parts = torch.zeros(len(sizes), 1) if noise is None else torch.split(noise.cpu(), sizes)
    deviations = {}
    for (name, value), part in zip(payload.items(), parts, strict=True):
        held = trained[name].detach() if seen.channel is ChannelName.UPDATE else value
        size = max(float(each.double().square().mean().sqrt()) for each in (value, held))
        rounding = torch.finfo(value.dtype).eps * size / abs(unit)
        deviations[name] = max(float(np.hypot(rounding, float(part[0]))), np.finfo(float).tiny ** 0.25)
    return Released({name: value.double().numpy() / unit for name, value in payload.items()}, deviations)


def rescales(seen: Observation) -> bool:
    """Whether what is known of the defence changes the scale of a payload, as a clip does."""
    if not seen.defence:
        return False
    if seen.defence.by_example:
        return True
    large = {name: 1e6 * value for name, value in seen.payload.items()}
    certain = seen.defence.without_noise(large)
    return any(not torch.equal(certain[name], large[name]) for name in large)
