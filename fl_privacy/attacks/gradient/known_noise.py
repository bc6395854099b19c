"""How loud the noise is that a known defence adds: measured by the attacker on draws of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.matching import gradient_unit
from fl_privacy.observation import Observation
from fl_privacy.weights import trainable

DRAWS = 8
ENOUGH = 4096
"""Values of a tensor, over all draws, that give its deviation to about 1 %; a smaller one has the average's."""


def noise_deviation(seen: Observation, seed: int = 0) -> Tensor | None:
    """The standard deviation (P,) of the noise on each entry of the observed gradient, in its order and unit.

    Every tensor of the payload has one deviation, that of `on_release` less what is certain of it. None where nothing
    is known, or nothing random. It works for any chain, because a law that is known can be drawn from.
    """
    if not seen.defence:
        return None
    assert seen.model is not None
    shapes = {name: value.shape for name, value in trainable(seen.model).items()}
    certain = seen.defence.without_noise(seen.payload)
    squares, counts = dict.fromkeys(shapes, 0.0), dict.fromkeys(shapes, 0)
    for draw in range(DRAWS):
        released = seen.defence.on_release(seen.payload, seed + draw)
        for name in shapes:
            squares[name] += float((released[name] - certain[name]).square().sum())
            counts[name] += released[name].numel()
    overall = sum(squares.values()) / sum(counts.values())
    if overall == 0:
        return None
    own = {n: squares[n] / counts[n] if counts[n] >= ENOUGH else overall for n in shapes}
    first = next(iter(seen.payload.values()))
    parts = [torch.full((shape.numel(),), own[n] ** 0.5, device=first.device) for n, shape in shapes.items()]
    of_one: Tensor = torch.cat(parts).clamp_min(1e-3 * overall**0.5) / abs(gradient_unit(seen))
    return of_one / math.sqrt(len(seen.clients))  # a mean of several messages, each with noise of its own
