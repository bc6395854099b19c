"""MAP: the most probable images, given a prior of images and the law of what was done to their gradient."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.bound import posterior_error
from fl_privacy.attacks.gradient.exposure import exposed, is_open
from fl_privacy.attacks.gradient.fit_batch import BatchSearch, fit_batch, objective, whitened
from fl_privacy.attacks.gradient.fit_steps import SHARES, Search, fit_steps
from fl_privacy.attacks.gradient.label_reading import drawn, labels_between, read_labels
from fl_privacy.attacks.gradient.learned_spectrum import posterior_draw, relearned
from fl_privacy.attacks.gradient.likelihood import Likelihood, likelihood
from fl_privacy.attacks.gradient.matching import adversary_copy
from fl_privacy.attacks.gradient.optimise import of_one_model
from fl_privacy.attacks.gradient.smoothing import STAGES, kinks_of, softly_fitted
from fl_privacy.attacks.gradient.surrogate import is_gradient
from fl_privacy.attacks.inversion.gauss_newton import Residual, gauss_newton
from fl_privacy.attacks.inversion.priors import Prior, Spectrum, of_owner, power_law
from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.seeding import stream

MEASURING_IMAGES = 16
REFINING = 4  # outer steps after the prior has changed
LEAST_ALIKE = 4  # images from which a mean and a spectrum can be learned


@ATTACKS.register("map")
@dataclass(frozen=True)
class MaximumAPosteriori(Attack):
    """The most probable images of a batch: Gauss-Newton in coordinates in which the prior is a standard normal.

    It minimises |w (g(x) - g)|^2 / (2 s^2) + |u|^2 / 2 over u, where x = mean + T u. Where noise is known, w and s are
    its law's (a Laplace or uniform law by its deviation), and a guess's gradient goes through whatever else is certain
    of the defence, such as a clip. Without any, w is one over each layer's size, and s is annealed; of a batch then,
    where Gauss-Newton ends in the nearest of many minima, differences are whitened by what images make of them
    (`whitening`), and the best s is put in, which makes the first term P log |w (g(x) - g)| for P parameters: `adam`
    iterations of Adam from each start and, from the best by that loss, `lbfgs` of L-BFGS. Starts are `restarts` draws
    and, with `grnn` iterations, the guess of GRNN's generator, whose images of one label part early.

    Through max-pooling and ReLU a search keeps the largest pixels and the units that it began with. So one goes first
    through a model in which all count, sharper from stage to stage (`smoothing`), each with a quarter of the steps; of
    this and a search through the model as it is from the start the guess with the lower loss counts.

    `prior`: 'power_law' has the spectrum of natural images and no data, and is fitted to the victims of one call, their
    common mean and spectrum, in `learn` rounds of EM (0, by descent, or without known noise through max-pooling or
    ReLU: left as it is); 'public' has the covariance of the attacker's own images, 'public_by_class' one for each class
    of them. Labels are read from the gradient by regression. At most `outer` steps of `inner` products with J and its
    transpose; of a batch, the best of `restarts` by the attack's own loss, each from `spread` times a random u. With
    `bound_probes` (4 are enough) a guess says how far off it expects itself to be.

    The loss is minus the log posterior in nats, up to a constant, before pixels are cut to [0, 1]. Victims of one call
    share the draws and, with 'power_law', what is learned of the prior.

    Source: the MAP estimate is Balunović et al. 2022 (arXiv 2111.04706), the Bayes optimal attack, with the law of the
    defence in it; the optimiser and the priors are ours.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)
    # set on the copy that `prepare` returns; not a field, because it is no setting
    fitted: ClassVar[Prior | None] = None

    prior: Literal["power_law", "public", "public_by_class"] = "power_law"
    learn: int = 20
    outer: int = 30
    inner: int = 20
    adam: int = 120
    lbfgs: int = 300
    restarts: int = 3
    grnn: int = 100
    spread: float = 0.1
    bound_probes: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("outer", "inner", "adam", "restarts"),
            not_negative=("spread", "learn", "lbfgs", "grnn", "bound_probes"),
        )
        if self.prior != "power_law":
            object.__setattr__(self, "needs", self.needs | {"public"})

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Fit the prior to the attacker's own images, once for all observations.

        Raises:
            ValueError: a prior per class, and the public images have no labels.
        """
        if not seen:
            return self
        self._check(seen[0])
        fitted = copy.copy(self)
        object.__setattr__(fitted, "fitted", self._prior(seen[0]))
        return fitted

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Invert the observations, those of one model object together."""
        return [guess for group in of_one_model(seen) for guess in self._invert(group, rng)]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """Minus the log posterior of images (N, C, H, W) and labels (N,), under the prior before any learning."""
        given = likelihood([seen])
        labels = labels.unsqueeze(0).to(given.observed.device)
        prior = self._prior(seen)
        given = whitened(seen, given, prior, labels) if _descends(seen, given) else given
        prior = prior.of(labels)
        u = prior.coordinates(inputs.to(given.observed).unsqueeze(0))
        return float(_own_loss(given, given.residual(prior, labels), u))

    def _prior(self, seen: Observation) -> Prior:
        if self.fitted is not None:
            return self.fitted
        if self.prior == "power_law":
            return power_law(seen.spec.image_shape, next(iter(seen.payload.values())).device)
        assert seen.public is not None
        return of_owner(seen.public, self.prior == "public_by_class")

    def _invert(self, seen: list[Observation], rng: torch.Generator) -> list[Reconstruction]:
        start = time.perf_counter()
        prior = self._prior(seen[0])
        given = likelihood(seen)
        kinks = self._kinks(seen[0], given.observed)
        descending = _descends(seen[0], given)
        batch = BatchSearch(self.adam, self.lbfgs, self.restarts, self.grnn, kinks)
        if is_gradient(seen[0]):
            labels = read_labels(seen, given.observed, prior, rng)
            if descending:
                given = whitened(seen[0], given, prior, labels)
                u, trace = fit_batch(seen, given, prior.of(labels), labels, batch, rng)
            else:
                u, trace = self._fit(given, prior.of(labels), labels, kinks, rng)
        else:
            search = Search(self.outer, self.inner, self.restarts, self.spread, batch)
            readings = [labels_between(seen, share, prior, rng) for share in SHARES]
            given, labels, u, trace = fit_steps(seen, given, prior, readings, search, rng)
        own = prior.of(labels)
        stuck = bool(kinks) and not given.known  # in some choice of pixels or units, and nothing is learned from that
        if isinstance(own, Spectrum) and self.learn and not descending and not stuck and labels.numel() >= LEAST_ALIKE:
            u, own = self._learn(given, own, labels, u, rng)
        residual = given.residual(own, labels)
        u = exposed(residual, own, u) if is_open(seen, given) else u
        losses = _own_loss(given, residual, u)
        images = own.images(u).nan_to_num(0.5).clamp(0, 1)
        bound = None
        if self.bound_probes:
            bound = posterior_error(given, own, own.images(u).nan_to_num(0.5), labels, rng, self.bound_probes).cpu()
        seconds = (time.perf_counter() - start) / len(seen)
        return [
            Reconstruction(
                inputs=images[victim].cpu(),
                labels=labels[victim].cpu(),
                bound=None if bound is None else bound[victim],
                loss=float(losses[victim]),
                trace=trace[:, victim].cpu(),
                iterations=len(trace) - 1,
                seconds=seconds,
            )
            for victim in range(len(seen))
        ]

    def _kinks(self, seen: Observation, like: Tensor) -> tuple[float, ...]:
        """Of the model's max-pooling and ReLU (`kinks_of`), on images that the prior draws."""
        assert seen.model is not None
        images = drawn(self._prior(seen), MEASURING_IMAGES, stream(0, "pooling"), like)
        return kinks_of(adversary_copy(seen.model, seen.spec.training_mode).to(images.device), images)

    def _fit(
        self, given: Likelihood, prior: Prior, labels: Tensor, kinks: Sequence[float], rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Coordinates (V, B, k), each victim's from its best restart by the attack's own loss; all traces (T, V)."""
        residual, batch = given.residual(prior, labels), labels.shape[1]
        shape = (*labels.shape, prior.mean.shape[-3:].numel())
        best, least, traces = torch.empty(0), torch.empty(0), []
        for _ in range(self.restarts if batch > 1 else 1):
            start = self.spread * torch.randn(shape, generator=rng).to(given.observed)
            fits = [gauss_newton(residual, start, given.floor, self.outer, self.inner)]
            ends = [fits[0].u]
            if kinks:
                steps = math.ceil(self.outer / STAGES)
                softly = softly_fitted(given, prior, labels, kinks, start, steps, self.inner)
                fits.append(gauss_newton(residual, softly, given.floor, steps, self.inner))
                ends += [softly, fits[1].u]  # the model may lead away from where a smooth one has led
            traces += [fit.trace for fit in fits]
            for u in ends:
                loss = _own_loss(given, residual, u).nan_to_num(float("inf"))
                if not best.numel():
                    best, least = u, loss
                better = loss < least
                best, least = torch.where(better[:, None, None], u, best), torch.minimum(loss, least)
        return best, torch.cat(traces)

    def _learn(
        self, given: Likelihood, base: Spectrum, labels: Tensor, u: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Spectrum]:
        """Coordinates (V, B, k) under a prior that has learned from them, and that prior."""
        now = base
        for _ in range(self.learn):
            drawn = posterior_draw(given.residual(now, labels), u, given, rng, given.linear(now, labels))
            new = relearned(base, now, u.flatten(0, 1), drawn.flatten(0, 1))
            u, now = new.coordinates(now.images(u)), new
            linear = given.linear(now, labels)
            u = gauss_newton(given.residual(now, labels), u, given.floor, REFINING, self.inner, linear_of=linear).u
        return u, now


def _descends(seen: Observation, given: Likelihood) -> bool:
    """Whether Gauss-Newton would end in the nearest minimum: a gradient of several images, without known noise."""
    return is_gradient(seen) and seen.spec.batch_size > 1 and not given.known


@torch.no_grad()
def _own_loss(given: Likelihood, residual: Residual, u: Tensor) -> Tensor:
    return objective(given, residual)(u)
