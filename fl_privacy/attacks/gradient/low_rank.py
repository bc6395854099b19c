"""A batch from its head: every image's logits and features by factorisation, then the images behind the features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.gauss_newton import Residual, gauss_newton
from fl_privacy.attacks.gradient.head_factors import HeadEquations, factor_head
from fl_privacy.attacks.gradient.label_recovery import Head, LabelCounts, read_at
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.matching import adversary_copy
from fl_privacy.attacks.gradient.mismatch import relative_mismatch
from fl_privacy.attacks.gradient.priors import Prior, power_law
from fl_privacy.attacks.gradient.released import released
from fl_privacy.observation import ChannelName, Observation, Reconstruction

EXACT = 1e-12
"""The mean squared relative error at which fitting the whole gradient ends: it starts near enough to be exact."""


@ATTACKS.register("low_rank")
@dataclass(frozen=True)
class LowRank(Attack):
    """Fewer images than classes, told apart by their head: its gradient has their number as its rank.

    The labels are those of `label_counts`. The logits of all images are searched for from `starts` draws among those of
    `images` draws of the power law of images (`head_factors.factor_head`); they give the features by linear algebra,
    and Gauss-Newton the images that have these features, then those that have the whole gradient (`outer` steps of
    `inner` products each). Images of one label whose probabilities hardly differ are seen only as sums, and stay close
    to their mean. The loss is the relative mismatch ||g(x) - g|| / ||g||, by which the last two are chosen between.

    Source: ours; the rank argument is that of Dimitrov et al. 2024, SPEAR (arXiv 2403.03945).
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)

    starts: int = 6
    images: int = 512
    outer: int = 30
    inner: int = 40

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("starts", "images", "outer", "inner"))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Take each observation apart.

        Raises:
            ValueError: a batch has as many images as there are classes, or the logits are no linear layer's output.
        """
        for each in seen:
            if each.spec.batch_size >= each.spec.classes:
                raise ValueError(
                    f"the head's gradient of {each.spec.classes} classes has a rank of at most "
                    f"{each.spec.classes - 1}, and {each.spec.batch_size} images cannot be told apart in it: lower "
                    "'batch_size', or use an attack that optimises, such as 'map'"
                )
        return [self._take_apart(each, rng) for each in seen]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """||g(x, y) - g|| / ||g|| at images (B, C, H, W) in [0, 1] and labels (B,)."""
        return relative_mismatch(seen, inputs, labels)

    def _take_apart(self, seen: Observation, rng: torch.Generator) -> Reconstruction:
        start, prior = time.perf_counter(), power_law(seen.spec.image_shape)
        draws = torch.randn(self.images, prior.mean.numel(), generator=rng)
        head = read_at(seen, prior.images(draws).clamp(0, 1))
        equations, error = head_equations(head, seen)
        picked = torch.randint(self.images, (self.starts, seen.spec.batch_size), generator=rng)
        logits, _ = factor_head(equations, head.logits, head.logits[picked], 1 / error)
        u = torch.zeros(1, seen.spec.batch_size, prior.mean.numel())
        by_features = gauss_newton(
            _feature_residual(seen, head, equations, logits, prior), u, 1.0, self.outer, self.inner
        )
        given = likelihood([seen])
        whole = given.residual(prior, equations.labels[None])
        by_gradient = gauss_newton(whole, by_features.u, given.floor if given.known else EXACT, self.outer, self.inner)
        found = [prior.images(fit.u[0]).nan_to_num(0.5).clamp(0, 1) for fit in (by_features, by_gradient)]
        losses = [self.loss(seen, images, equations.labels) for images in found]
        best = min(range(2), key=lambda i: losses[i])
        return Reconstruction(
            inputs=found[best].cpu(),
            labels=equations.labels,
            loss=losses[best],
            iterations=len(by_features.trace) + len(by_gradient.trace) - 2,
            seconds=time.perf_counter() - start,
        )


def head_equations(head: Head, seen: Observation) -> tuple[HeadEquations, float]:
    """What an observation's head says of its images, and the relative error of that.

    Raises:
        ValueError: the head has no trained bias.
    """
    assert seen.model is not None
    module = seen.model.get_submodule(head.name)
    assert isinstance(module, nn.Linear)
    if f"{head.name}.bias" not in seen.payload:
        raise ValueError("the head has no trained bias, without which its factors are not known: use another attack")
    gradient = released(seen)
    weight, bias = (torch.from_numpy(gradient.gradients[f"{head.name}.{part}"]) for part in ("weight", "bias"))
    (labels,) = (guess.labels for guess in LabelCounts()([seen], torch.Generator()))
    assert labels is not None
    error = gradient.deviations[f"{head.name}.weight"] / float(weight.square().mean().sqrt().clamp_min(1e-30))
    own = (module.weight.detach().double().cpu(), module.bias.detach().double().cpu())
    return HeadEquations(*own, weight, bias, labels), min(max(error, 1e-7), 1.0)


def _feature_residual(
    seen: Observation, head: Head, equations: HeadEquations, logits: Tensor, prior: Prior
) -> Residual:
    """How far the features of images are from those that the head's gradient has, in their errors: (1, B, k) to (1, P).

    Features have the posterior of dL/dW = D^T H over the prior of features that the adversary's images show: what
    combinations of images D tells apart counts by how well it does.
    """
    d = equations.slope(logits)
    mean, spread = head.features.mean(0), float(head.features.var(0).mean().clamp_min(1e-12))
    noise = released(seen).deviations[f"{head.name}.weight"] ** 2
    precision = d @ d.T / noise + torch.eye(len(d), dtype=d.dtype) / spread
    right = d @ (equations.weight_gradient - d.sum(0)[:, None] * mean) / noise
    features = (mean + torch.linalg.solve(precision, right)).float()
    # an error below the nonlinearity of a step is nothing that Gauss-Newton can use
    values, vectors = torch.linalg.eigh(precision)
    root = (vectors * values.clamp_max(1e6 / spread).sqrt()).T.float()
    own = features_of(seen, head.name)
    return lambda u: (root @ (own(prior.images(u[0])) - features)).view(1, -1)


def features_of(seen: Observation, name: str) -> Callable[[Tensor], Tensor]:
    """A differentiable function from images (B, C, H, W) to what the layer called `name` takes of them, (B, F)."""
    assert seen.model is not None
    model = adversary_copy(seen.model, seen.spec.training_mode).cpu().requires_grad_(False)
    taken: list[Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, arguments: taken.append(arguments[0]))

    def features(images: Tensor) -> Tensor:
        taken.clear()
        model(images)
        return taken[-1]

    return features
