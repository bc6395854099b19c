"""How loud the noise is that a known defence adds: measured by the attacker on draws of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.matching import gradient_unit
from fl_privacy.federated.local_training import local_train, minibatches
from fl_privacy.observation import ChannelName, Observation, Tensors
from fl_privacy.seeding import stream
from fl_privacy.weights import trainable

DRAWS = 8
ENOUGH = 4096
"""Values of a tensor, over all draws, that give its deviation to about 1 %; a smaller one has the average's."""


def noise_deviation(seen: Observation, seed: int = 0) -> Tensor | None:
    """The standard deviation (P,) of the noise on each entry of the observed gradient, in its order and unit.

    Every tensor of the payload has one deviation: that of `on_release` less what is certain of it, of what no second
    release shows, such as rounding, and of the noise in every local step. None where nothing is known, or nothing
    random. It works for any chain, because a law that is known can be drawn from.
    """
    if not seen.defence:
        return None
    assert seen.model is not None
    shapes = {name: value.shape for name, value in trainable(seen.model).items()}
    drawn, hidden = _drawn_variance(seen, list(shapes), seed), seen.defence.hidden_variance(seen.payload)
    variances = {name: drawn[name] + (float(hidden[name]) if hidden else 0.0) for name in shapes}
    if seen.defence.by_example:
        of_steps = _step_variance(seen, shapes, seed)
        variances = {name: variances[name] + of_steps[name] for name in shapes}
    overall = sum(variances[n] * shape.numel() for n, shape in shapes.items()) / sum(
        map(torch.Size.numel, shapes.values())
    )
    if overall == 0:
        return None
    first = next(iter(seen.payload.values()))
    parts = [torch.full((shape.numel(),), variances[n] ** 0.5, device=first.device) for n, shape in shapes.items()]
    of_one: Tensor = torch.cat(parts).clamp_min(1e-3 * overall**0.5) / abs(gradient_unit(seen))
    return of_one / math.sqrt(len(seen.clients))  # a mean of several messages, each with noise of its own


def noise_deviations(seen: Sequence[Observation], seed: int = 0) -> Tensor | None:
    """The deviations (V, P) of victims of one model and defence, or None: one's own only where its release decides."""
    deviation = noise_deviation(seen[0], seed)
    if deviation is None:
        return None
    assert seen[0].defence is not None
    if seen[0].defence.hidden_variance(seen[0].payload) is None:
        return deviation.expand(len(seen), -1)
    own = [noise_deviation(each, seed) for each in seen[1:]]
    return torch.stack([deviation, *(deviation if each is None else each for each in own)])


def _drawn_variance(seen: Observation, names: Sequence[str], seed: int) -> dict[str, float]:
    """The mean squared difference, by name, of second releases from what is certain of them."""
    assert seen.defence is not None
    certain = seen.defence.without_noise(seen.payload)
    squares, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for draw in range(DRAWS):
        released = seen.defence.on_release(seen.payload, seed + draw)
        for name in names:
            squares[name] += float((released[name] - certain[name]).square().sum())
            counts[name] += released[name].numel()
    return _variances(squares, counts)


def _variances(squares: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """Mean squares by name, of sums over `counts` drawn values; a tensor of few has the average's."""
    overall = sum(squares.values()) / sum(counts.values())
    return {name: squares[name] / counts[name] if counts[name] >= ENOUGH else overall for name in squares}


def _step_variance(seen: Observation, shapes: Mapping[str, torch.Size], seed: int) -> dict[str, float]:
    """The variance, by name, that the noise on the sum over examples in every step leaves in the payload.

    Drawn through the client's own optimiser, as if every step had the mean gradient: how noise bends them is left out.
    """
    chain, local, unit = seen.defence, seen.spec.local, gradient_unit(seen)
    assert chain is not None
    start = {name: torch.zeros_like(seen.payload[name]) for name in shapes}
    one_gradient = seen.channel is ChannelName.GRADIENT
    sizes = [seen.examples] if one_gradient else [len(part) for part in minibatches(local, seen.examples, None)]

    def sent(rng: torch.Generator | None) -> Tensors:
        def slope(now: Tensors, step: int) -> Tensors:
            nothing = {name: value.new_zeros(()).expand(sizes[step], *value.shape) for name, value in start.items()}
            mean = {name: seen.payload[name] / unit for name in start}
            if rng is None:
                return mean
            noise = chain.on_example_gradients(nothing, rng)
            return {name: value + noise[name] for name, value in mean.items()}

        return slope(start, 0) if one_gradient else local_train(start, slope, len(sizes), local)

    certain, squares = sent(None), dict.fromkeys(shapes, 0.0)
    for draw in range(DRAWS):
        drawn = sent(stream(seed + draw, "examples"))
        for name in shapes:
            squares[name] += float((drawn[name] - certain[name]).square().sum())
    return _variances(squares, {name: DRAWS * shape.numel() for name, shape in shapes.items()})


def has_likelihood(seen: Observation) -> bool:
    """Whether a known chain at most scales each tensor and adds noise: then a guess has a likelihood that MAP can use.

    Signs, pruning and rounding to a grid do more, also behind DP-SGD, whose own clip counts as scaling.
    """
    if not seen.defence:
        return True
    if seen.defence.hidden_variance(seen.payload) is not None:
        return False
    rng = stream(0, "has_likelihood")
    probe = {name: torch.randn(value.shape, generator=rng).to(value) for name, value in seen.payload.items()}
    certain = seen.defence.without_noise(probe)
    return all(
        float(F.cosine_similarity(certain[name].flatten().double(), value.flatten().double(), dim=0)) > 1 - 1e-6
        for name, value in probe.items()
        if value.numel() > 1
    )
