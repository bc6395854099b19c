"""White-box inversion of activations: the most probable images, given a prior of them and the law of the noise."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from fl_privacy.attacks.activation.likelihood import UNHEARD, Noise, Problem, measured
from fl_privacy.attacks.activation.noise_estimate import AUDIBLE, overheard, own_activations, shared_tensors
from fl_privacy.attacks.activation.rmle import alike, frozen_segment
from fl_privacy.attacks.base import ATTACKS, Attack, check_ranges
from fl_privacy.attacks.inversion.descent import descend
from fl_privacy.attacks.inversion.gauss_newton import gauss_newton
from fl_privacy.attacks.inversion.neighbours import near
from fl_privacy.attacks.inversion.priors import Prior, power_law, public
from fl_privacy.observation import ChannelName, KnownDefence, Observation, Reconstruction
from fl_privacy.split.segments import ACTIVATION, SERVED_AT_ONCE

REFUTED = 0.5
"""Below this share of what the estimated noise would leave unexplained, it was overestimated."""
PROBED = 8
"""Releases on which it is seen whether the attacker's own images are of their kind."""
TOGETHER = 64  # images: their own directions in memory


@ATTACKS.register("activation_map")
@dataclass(frozen=True)
class MostProbable(Attack):
    """The most probable images behind activations, by Gauss-Newton in coordinates in which the prior is a normal one.

    Minimises |f(x) - z|^2 / (2 s^2) + |u|^2 / 2 over u, where x = mean + T u and f is the client segment ('model') with
    whatever else is certain of a known defence. s is the deviation of the noise where its law is known or, with
    `estimate_noise` and images of one's own, estimated (`noise_estimate`), and corrected where images without noise
    explain the releases far better than it allows; without any, s is annealed. Releases that lie in groups have a noise
    tensor in common: only their differences within a group are explained then, all images together. At most `outer`
    steps of `inner` products with J and its transpose. Behind noise as heavy as Laplace's, `refine` iterations of Adam
    then put in its own law, |f(x) - z|_1 / b.

    `prior`: 'neighbours' gives every image the mean and covariance of those `neighbours` of the attacker's own images
    whose activations are nearest to its own, shrunk towards all of them; 'public' those of all, the better one where
    the noise is so loud that the nearest are no longer alike; 'power_law' the spectrum of natural images, and no data.
    Where the first few releases, without noise, are less probable under a prior of the attacker's images than under the
    spectrum, those are of another kind, and the spectrum serves: what is compared is the density of each one's guesses.

    The loss is minus the log posterior in nats an image, up to a constant, before pixels are cut to [0, 1].

    Source: the MAP estimate is that of the gradient channel's `map`; a likelihood of activations with a prior is He,
    Zhang and Lee 2019, equation 1; the priors and the optimiser are ours.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.ACTIVATION})
    needs: ClassVar[frozenset[str]] = frozenset({"model", "public"})
    # set on the copy that `prepare` returns; not a field, because it is no setting
    heard: ClassVar[Noise | None] = None
    of_a_kind: ClassVar[bool] = True

    prior: Literal["neighbours", "public", "power_law"] = "neighbours"
    neighbours: int = 100
    outer: int = 12
    inner: int = 15
    refine: int = 60
    estimate_noise: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("neighbours", "outer", "inner"), not_negative=("refine",))
        if self.prior == "power_law":
            object.__setattr__(self, "needs", frozenset({"model"}))

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Measure or estimate the noise, and see what the own images are worth, once for all observations.

        Raises:
            ValueError: noise is to be estimated, and the attacker owns fewer than 8 images.
        """
        if not seen:
            return self
        self._check(seen[0])
        ready, noise = copy.copy(self), self._noise(seen)
        object.__setattr__(ready, "heard", noise)
        object.__setattr__(ready, "of_a_kind", self._are_of_a_kind(seen[0], noise))
        return ready

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        if self.heard is None:
            return self.prepare(seen, rng).reconstruct(seen, rng)
        guesses: dict[int, Reconstruction] = {}
        for group in alike(seen):
            for together in [[i] for i in group] if _tied(seen[group[0]]) else [group]:
                guesses |= dict(zip(together, self._invert([seen[i] for i in together], self.heard), strict=True))
        return [guesses[i] for i in range(len(seen))]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """Minus the log posterior of images (N, C, H, W), the mean over them."""
        parts = self._problems([seen], self.heard or self._noise([seen]))
        sizes = [len(part.target) for part in parts]
        return sum(
            float(part.nats_of(images).sum()) for part, images in zip(parts, torch.split(inputs, sizes), strict=True)
        ) / len(inputs)

    def _are_of_a_kind(self, first: Observation, noise: Noise) -> bool:
        """Whether the own images say more of the first few releases than the spectrum of natural images does.

        Only without noise: behind it both leave much open, and the densities of two guesses no longer tell.
        """
        if self.prior == "power_law" or noise.deviation is not None or noise.shared or _tied(first):
            return True
        rarity = []
        for attack in (self, replace(self, prior="power_law")):
            problem = attack._few(first, first.payload[ACTIVATION], noise)
            rarity.append(float((problem.nats_of(attack._solved(problem)) + problem.prior.volume()).sum()))
        return rarity[0] <= rarity[1]

    def _few(self, first: Observation, released: Tensor, noise: Noise) -> Problem:
        """The images behind the first few of these activations."""
        part = released[:PROBED]
        few = replace(first, payload={ACTIVATION: part}, spec=replace(first.spec, batch_size=len(part)))
        (problem,) = self._problems([few], noise)
        return problem

    def _left(self, first: Observation, released: Tensor) -> float:
        """The mean square of activations (N, ...) that no images explain, of whatever kind the own ones are."""
        attack = replace(self, prior="power_law")
        problem = attack._few(first, released, Noise())
        u = problem.prior.coordinates(attack._solved(problem))
        return float((problem.residual(u.view(problem.victims, -1, u.shape[-1])) * problem.off).square().mean())

    def _share(self, first: Observation, chain: KnownDefence) -> float:
        """What images leave of the releases, over what they leave of own activations with noise of this law."""
        assert first.public is not None
        released = first.payload[ACTIVATION]
        with torch.no_grad():
            own = frozen_segment(first, released.device)(first.public.inputs[:PROBED].to(released.device))
        simulated = chain.on_release({ACTIVATION: own}, 0)[ACTIVATION]
        return self._left(first, released) / self._left(first, simulated)

    def _noise(self, seen: Sequence[Observation]) -> Noise:
        first = seen[0]
        if first.defence:
            return measured(first.defence, first.payload[ACTIVATION])
        if not self.estimate_noise or first.public is None:
            return Noise()
        if _groups(seen) is not None:
            return Noise(shared=True)
        heard = overheard(seen)
        if heard.chain is None:
            return Noise()
        deviation, power = heard.deviation, float(first.payload[ACTIVATION].square().mean())
        share = 1.0 if _tied(first) else self._share(first, heard.chain)
        if share < REFUTED:
            deviation *= share**0.5
        if deviation**2 <= AUDIBLE * power:
            return Noise()
        return Noise(deviation, heard.law == "laplace", chain=replace(heard, deviation=deviation).chain)

    def _invert(self, seen: list[Observation], noise: Noise) -> list[Reconstruction]:
        start = time.perf_counter()
        found = [(part, self._solved(part)) for part in self._problems(seen, noise)]
        images = torch.cat([part for _, part in found])
        losses = torch.cat([problem.nats_of(part) for problem, part in found])
        seconds = (time.perf_counter() - start) / len(seen)
        sizes = [each.spec.batch_size for each in seen]
        each_loss = torch.split(losses, sizes) if len(losses) == len(images) else (losses / len(images),)
        return [
            Reconstruction(inputs=part.cpu(), loss=float(own.mean()), seconds=seconds)
            for part, own in zip(torch.split(images, sizes), each_loss, strict=True)
        ]

    def _solved(self, problem: Problem) -> Tensor:
        """Images (N, C, H, W)."""
        count = len(problem.target)
        start = torch.zeros(problem.victims, count // problem.victims, problem.prior.mean.shape[-3:].numel())
        floor = UNHEARD if problem.noise.deviation is None else 1.0
        u = gauss_newton(problem.residual, start.to(problem.target), floor, self.outer, self.inner).u
        if problem.noise.heavy and self.refine:
            u = descend(problem.nats, u[None], self.refine, 0).u
        return problem.prior.images(u.flatten(0, 1)).detach().nan_to_num(0.5).clamp(0, 1)

    def _problems(self, seen: Sequence[Observation], noise: Noise) -> list[Problem]:
        """The images behind all activations, each a victim, a few at a time; those of a tied observation as one."""
        first = seen[0]
        target = torch.cat([each.payload[ACTIVATION] for each in seen])
        segment, chain = frozen_segment(first, target.device), first.defence
        groups = _groups(seen) if noise.shared else None
        tied = _tied(first) or groups is not None

        def released(part: Tensor, images: Tensor) -> Tensor:
            clean: Tensor = segment(images)
            if groups is not None:
                return clean + _means(part - clean, groups)
            return chain.as_seen({ACTIVATION: clean}, {ACTIVATION: part})[ACTIVATION] if chain else clean

        def without_tensors(part: Tensor) -> Tensor:
            return part if groups is None else part - _means(part, groups) + own_activations(first).mean(0)

        off = noise.deviation or float(target.square().mean().sqrt().clamp_min(1e-12))
        answers = self._answers(first)
        return [
            Problem(
                partial(released, part),
                part,
                self._prior(first, answers, without_tensors(part)),
                1 if tied else len(part),
                off,
                noise,
            )
            for part in torch.split(target, len(target) if tied else TOGETHER)
        ]

    @torch.no_grad()
    def _answers(self, first: Observation) -> Tensor | None:
        """The activations (M, D) of the attacker's own images, where its prior wants them."""
        if self.prior != "neighbours" or not self.of_a_kind:
            return None
        assert first.public is not None
        device = first.payload[ACTIVATION].device
        ask = first.query or frozen_segment(first, device).eval()
        parts = torch.split(first.public.inputs, SERVED_AT_ONCE)
        return torch.cat([ask(part.to(device)).flatten(1).to(device) for part in parts])

    def _prior(self, first: Observation, answers: Tensor | None, target: Tensor) -> Prior:
        if self.prior == "power_law" or not self.of_a_kind:
            return power_law(first.spec.image_shape, target.device)
        assert first.public is not None
        own = first.public.inputs.to(target.device)
        everyone = public(own)
        if answers is None:
            return everyone
        distances = torch.cdist(target.flatten(1), answers)
        return near(everyone, own, distances.topk(min(self.neighbours, len(own)), largest=False).indices)


def _groups(seen: Sequence[Observation]) -> Tensor | None:
    """Which of all releases (N,) have a noise tensor in common; None where none have."""
    return shared_tensors(torch.cat([each.payload[ACTIVATION] for each in seen]), own_activations(seen[0]))


def _means(each: Tensor, groups: Tensor) -> Tensor:
    """Of `each` (N, ...) the mean over its group, for all N."""
    mine = torch.eye(int(groups.max()) + 1, dtype=each.dtype, device=each.device)[groups]
    return (mine @ (mine / mine.sum(0)).T @ each.flatten(1)).view_as(each)


def _tied(seen: Observation) -> bool:
    """Whether the images of one release change each other's activations, as by batch statistics or a clip of all."""
    if seen.spec.training_mode or not seen.defence:
        return seen.spec.training_mode
    together, alone = (
        seen.defence.without_noise({ACTIVATION: part})[ACTIVATION][:1]
        for part in (seen.payload[ACTIVATION], seen.payload[ACTIVATION][:1])
    )
    return not torch.equal(together, alone)
