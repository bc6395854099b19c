"""Peeling: one image from its gradient, layer by layer from the logits down, by linear algebra alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.batch_statistics import Moments, sent_statistics
from fl_privacy.attacks.gradient.head import HeadReading, read_head
from fl_privacy.attacks.gradient.layer_chain import WHY, Opaque, layer_chain
from fl_privacy.attacks.gradient.monotone import INVERSES, invertible
from fl_privacy.attacks.gradient.released import Released, released, rescales
from fl_privacy.attacks.gradient.simulated import relative_mismatch
from fl_privacy.attacks.gradient.stages import UNKNOWN, Belief, Known, Stage, descend, independent, stages
from fl_privacy.attacks.inversion.priors import PIXEL_VARIANCE, power_law
from fl_privacy.observation import ChannelName, Observation, Reconstruction


@ATTACKS.register("peeling")
@dataclass(frozen=True)
class Peeling(Attack):
    """The image of a batch of one in closed form, where every activation below the lowest biased linear layer can be
    undone: sigmoid, tanh, leaky ReLU; ReLU as far as its zeros leave it determined.

    Takes any chain of convolutions, linear layers, average pooling, batch normalisation in eval mode (in training mode
    where an update comes with its running statistics, which tell those of the image), normalised inputs and reshapings,
    whose last layer is linear. Where the equations leave something open, such as average pooling after
    an activation, the power law of images fills it, and the loss and the bound say so. An equation counts by its
    standard error, so that noise of a known law is taken into account; a clip is undone: its factor can be read.
    The loss is the relative mismatch ||g(x) - g|| / ||g||, and `bound` the posterior variance.

    At most `largest` values may enter one layer: the equations are dense, of 8 largest^2 bytes and largest^3 / 3
    multiplications.

    Source: Zhu and Blaschko 2021, R-GAP (arXiv 2010.07733).
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, largest_batch=1)

    largest: int = 8192

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("largest",))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Invert the observations; the layers of one model are read once.

        Raises:
            ValueError: the model is no chain of layers that can be undone, or one of its layers is too large.
        """
        guesses: list[Reconstruction] = []
        for _, group in groupby(seen, key=lambda o: (id(o.model), o.spec)):
            victims = list(group)
            start = time.perf_counter()
            moments = [sent_statistics(victim) for victim in victims]
            chain = self._chain(victims[0], moments[0])
            pixels = image_belief(victims[0].spec.image_shape)
            spent = (time.perf_counter() - start) / len(victims)
            for victim, known in zip(victims, moments, strict=True):
                own = self._chain(victim, known) if known else chain  # the moments are of this image alone
                guesses.append(self._invert(own, pixels, victim, spent))
        return guesses

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """||g(x) - g|| / ||g|| at images (1, C, H, W) in [0, 1] and labels (1,); a known clip is applied to g(x)."""
        return relative_mismatch(seen, inputs, labels)

    def _chain(self, seen: Observation, moments: Mapping[str, Moments]) -> list[Stage]:
        """The model's stages, from the image up to the one where peeling starts, and above them the head's."""
        assert seen.model is not None
        chain = stages(layer_chain(seen.model, seen.spec.image_shape, seen.spec.training_mode, moments))
        _check_head(chain, seen)
        chain = [*chain[: _start(chain, seen) + 1], chain[-1]]
        if (most := max(stage.size for stage in chain[:-1])) > self.largest:
            raise ValueError(
                f"a layer takes {most:,} values, and peeling solves dense equations of at most {self.largest:,}: raise "
                f"'largest' where {8 * most**2 / 2**30:.1f} GiB a matrix are there, or use an attack that optimises"
            )
        return chain

    def _invert(self, chain: list[Stage], pixels: Belief, seen: Observation, spent: float) -> Reconstruction:
        start = time.perf_counter()
        head, gradient = _read(chain[-1], seen)
        *rest, top = chain[:-1]
        output, delta = _at_the_top(top, chain[-1], head, gradient)
        for stage, below in zip([top, *reversed(rest)], [*reversed(rest), None], strict=True):
            prior = pixels if below is None else independent(stage.size, *BELIEFS[type(below.activation)])
            found, delta = descend(stage, output, delta, gradient, prior)
            if below is not None:
                output, delta = _undo(below.activation, found, delta)
        inputs = torch.from_numpy(found.value).float().clamp(0, 1).view(1, *seen.spec.image_shape)
        labels = torch.tensor([head.label])
        return Reconstruction(
            inputs=inputs,
            labels=labels,
            bound=torch.tensor([found.variance.mean()], dtype=torch.float32),
            loss=self.loss(seen, inputs, labels),
            iterations=1,
            seconds=spent + time.perf_counter() - start,
        )


BELIEFS: dict[type[nn.Module] | type[None], tuple[float, float]] = {
    nn.Sigmoid: (0.5, 0.3),
    nn.Tanh: (0.0, 0.6),
    nn.LeakyReLU: (0.0, 3.0),
    nn.ReLU: (0.0, 3.0),
}
"""By activation: mean and deviation of what it gives, weak enough to yield to any equation."""


def image_belief(shape: tuple[int, int, int]) -> Belief:
    """The power law of natural images (`priors.power_law`) as a Gaussian over flat images (C, H, W)."""
    prior, size = power_law(shape), math.prod(shape)
    whitening = prior.inverse(torch.eye(size).view(size, *shape)).double()
    square = prior.mean.double().square().mean() + PIXEL_VARIANCE
    return Belief(prior.mean.double().numpy().ravel(), (whitening @ whitening.T).numpy(), float(square))


def _check_head(chain: list[Stage], seen: Observation) -> None:
    """Refuse a model whose last layer is no trained linear layer."""
    last = chain[-1].layers[-1]
    if last.kernel is None or last.pixels > 1 or chain[-1].activation or f"{last.name}.weight" not in seen.payload:
        raise ValueError(f"the model's last layer is no linear layer that was trained: there is no head to read. {WHY}")


def _start(chain: list[Stage], seen: Observation) -> int:
    """The highest stage from which all activations below can be undone.

    Raises:
        ValueError: there is none: below an activation that cannot be undone the slope of the loss is known only where a
            linear layer with a bias gives it anew.
    """
    opaque = next((i for i, s in enumerate(chain[:-1]) if s.activation and not invertible(s.activation)), None)
    if opaque is None:
        return len(chain) - 1
    anew = [i for i in range(opaque + 1) if _linear_with_bias(chain[i], seen)]
    if not anew:
        raise ValueError(
            f"{_name(chain[opaque].activation)} cannot be undone, and no linear layer with a bias lies below it, whose "
            f"gradient would give the slope anew. Peeling undoes {', '.join(each.__name__ for each in INVERSES)}. {WHY}"
        )
    return anew[-1]


def _linear_with_bias(stage: Stage, seen: Observation) -> bool:
    return any(
        layer.kernel is not None and layer.pixels == 1 and f"{layer.name}.bias" in seen.payload
        for layer in stage.layers
    )


def _name(module: nn.Module | None) -> str:
    return module.target if isinstance(module, Opaque) else type(module).__name__


def _read(last: Stage, seen: Observation) -> tuple[HeadReading, Released]:
    """What the head's gradient says, and the whole gradient without the factor that was found there."""
    gradient, layer = released(seen), last.layers[-1]
    bias = gradient.gradients.get(f"{layer.name}.bias")
    label = None if seen.labels is None else int(seen.labels[0])
    head = read_head(layer.matrix.toarray(), layer.offset, gradient.gradients[f"{layer.name}.weight"], bias, label)
    return head, gradient.divided(min(head.scale, 1.0)) if rescales(seen) else gradient


def _at_the_top(top: Stage, last: Stage, head: HeadReading, seen: Released) -> tuple[Known, Known]:
    """What is known of the values and of the slope where peeling starts: nothing, but at the logits the slope."""
    size = len(top.before[-1][1])
    unknown = Known(np.zeros(size), np.full(size, UNKNOWN))
    if top is not last:
        return unknown, unknown
    layer = last.layers[-1]
    error = seen.deviations[f"{layer.name}.weight"] ** 2 / max(float(np.mean(head.features**2)), 1e-12)
    return unknown, Known(head.delta, np.full(size, error))


def _undo(activation: nn.Module | None, given: Known, delta: Known) -> tuple[Known, Known]:
    """What an activation took and the slope of the loss there, from the same two behind it.

    What it took goes on without the belief that was put in, which is not to count as seen by the layers below.
    """
    assert activation is not None
    undo, (mean, deviation) = INVERSES[type(activation)], BELIEFS[type(activation)]
    precision = np.maximum(1 / given.variance - deviation**-2.0, 1 / UNKNOWN)
    seen = (given.value / given.variance - mean * deviation**-2.0) / precision
    alone, joined = undo(activation, seen, 1 / precision), undo(activation, given.value, given.variance)
    doubt = delta.variance * joined.slope**2 + delta.value**2 * joined.slope_variance
    return Known(alone.z, alone.variance), Known(delta.value * joined.slope, doubt)
