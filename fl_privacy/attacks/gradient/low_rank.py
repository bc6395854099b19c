"""A batch from its head: every image's logits and features by factorisation, then the images behind the features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.fit_batch import FAR, objective
from fl_privacy.attacks.gradient.head_factors import HeadEquations, factor_head
from fl_privacy.attacks.gradient.label_recovery import Head, LabelCounts, read_at
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.matching import adversary_copy, twice_differentiable
from fl_privacy.attacks.gradient.released import released
from fl_privacy.attacks.gradient.simulated import relative_mismatch
from fl_privacy.attacks.inversion.descent import descend
from fl_privacy.attacks.inversion.gauss_newton import Residual, gauss_newton
from fl_privacy.attacks.inversion.priors import Prior, power_law
from fl_privacy.observation import ChannelName, Observation, Reconstruction

LOOSE = 1e4
"""By what the head's equations count against what logits are like, before they count by their own error."""
SOLVED = 1e3
"""The loss of `factor_head`, for each logit, beyond which the labels are taken to be wrong."""


@ATTACKS.register("low_rank")
@dataclass(frozen=True)
class LowRank(Attack):
    """Fewer images than classes, told apart by their head: its gradient has their number as its rank.

    The labels are those of `label_counts`. `adam` iterations on the whole gradient, from `starts` random points under
    the power law of images, give every image's logits roughly; from there those that explain the head's gradient are
    searched for (`head_factors.factor_head`). Where none do, the labels may be wrong: up to `neighbours` others are
    tried, which differ in one image. The logits give the features by linear algebra, Gauss-Newton the images that have
    these features (`outer` steps of `inner` products), and `lbfgs` iterations those that have the whole gradient.
    Images of one label whose probabilities hardly differ are seen by the head only as sums. `images` draws of the power
    law say what features are like. The loss is the relative mismatch ||g(x) - g|| / ||g||, by which the last two are
    chosen between.

    Source: ours; the rank argument is that of Dimitrov et al. 2024, SPEAR (arXiv 2403.03945).
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)

    starts: int = 1
    adam: int = 120
    neighbours: int = 6
    images: int = 512
    outer: int = 8
    inner: int = 40
    lbfgs: int = 300

    def __post_init__(self) -> None:
        positive = ("starts", "adam", "images", "outer", "inner")
        check_ranges(self, at_least_one=positive, not_negative=("neighbours", "lbfgs"))

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
        head = read_at(seen, prior.images(torch.randn(self.images, prior.mean.numel(), generator=rng)).clamp(0, 1))
        equations, error = head_equations(head, seen)
        rough = self._roughly(seen, prior, equations.labels, rng)
        equations, logits, u = self._factored(seen, head, equations, error, prior, rough)
        features = _feature_residual(seen, head, equations, logits, prior)
        by_features = gauss_newton(features, u[None], 1.0, self.outer, self.inner)
        given = likelihood([seen])
        whole = objective(given, given.residual(prior, equations.labels[None]))
        by_gradient = descend(whole, by_features.u[None], 1, self.lbfgs)
        found = [prior.images(each[0]).nan_to_num(0.5).clamp(0, 1) for each in (by_features.u, by_gradient.u)]
        losses = [self.loss(seen, images, equations.labels) for images in found]
        best = min(range(2), key=lambda i: losses[i])
        return Reconstruction(
            inputs=found[best].cpu(),
            labels=equations.labels,
            loss=losses[best],
            iterations=self.adam + len(by_features.trace) + len(by_gradient.trace) - 2,
            seconds=time.perf_counter() - start,
        )

    def _roughly(self, seen: Observation, prior: Prior, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Coordinates (S, B, k) after Adam on the whole gradient, one batch a start."""
        given = likelihood([seen], repeats=self.starts)
        starts = FAR * torch.randn(self.starts, len(labels), prior.mean.numel(), generator=rng)
        whole = objective(given, given.residual(prior, labels.expand(self.starts, -1)))
        return descend(whole, starts[None], self.adam, 0).u

    def _factored(
        self, seen: Observation, head: Head, equations: HeadEquations, error: float, prior: Prior, rough: Tensor
    ) -> tuple[HeadEquations, Tensor, Tensor]:
        """The equations with the labels that fit best, their logits (B, C), and the nearest rough guess (B, k)."""
        flat = read_at(seen, prior.images(rough.flatten(0, 1)).nan_to_num(0.5)).logits
        starts = flat.view(*rough.shape[:2], -1)
        best: tuple[float, HeadEquations, Tensor] | None = None
        for labels in [equations.labels, *neighbours(head, equations)[: self.neighbours]]:
            own = replace(equations, labels=labels)
            logits, loss = factor_head(own, head.logits, starts, 1 / error, (LOOSE,))
            if best is None or loss < best[0]:
                best = loss, own, logits
            if loss < SOLVED * logits.numel():
                break
        assert best is not None
        return best[1], best[2], rough[int((starts - best[2]).square().sum((1, 2)).argmin())]


def neighbours(head: Head, equations: HeadEquations) -> list[Tensor]:
    """Labels (B,) that differ from those of the equations in one image, those first that fit dL/db best."""
    labels, classes = equations.labels, len(equations.bias)
    found: list[tuple[float, Tensor]] = []
    for image in range(len(labels)):
        if int((labels[:image] == labels[image]).sum()):
            continue  # another image of its class has moved already
        for label in range(classes):
            moved = labels.clone()
            moved[image] = label
            counts = torch.bincount(moved, minlength=classes).double()
            misfit = float((head.probabilities - counts / len(labels) - equations.bias_gradient).norm())
            if label != int(labels[image]):
                found.append((misfit, moved))
    return [moved for _, moved in sorted(found, key=lambda each: each[0])]


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
        with twice_differentiable(model):
            model(images)
        return taken[-1]

    return features
