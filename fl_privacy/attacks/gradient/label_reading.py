"""Labels of a message, read by what images that a prior draws would have sent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.known_noise import noise_deviation
from fl_privacy.attacks.gradient.label_regression import regress_labels
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import Matcher, observed_step
from fl_privacy.attacks.gradient.pixels import labels_read
from fl_privacy.attacks.gradient.surrogate import between
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import Observation

LABEL_IMAGES = 16


def read_labels(seen: Sequence[Observation], observed: Tensor, prior: Prior, rng: torch.Generator) -> Tensor:
    """The labels (V, B) of the victims `seen`, from gradients of images that the prior draws."""
    first = seen[0]
    spec, chain = first.spec, first.defence
    images = drawn(prior, LABEL_IMAGES, rng, observed)

    def read(victim: Observation, gradients: Tensor) -> Tensor:
        single = singles(victim, LABEL_IMAGES)
        return regress_labels(single, images, gradients, noise_deviation(victim), spec.classes, spec.batch_size)

    if chain and (chain.release_tells or chain.hidden_variance(first.payload) is not None):
        return torch.cat([read(each, gradient[None]) for each, gradient in zip(seen, observed, strict=True)])
    return read(first, observed)


def labels_between(seen: Sequence[Observation], share: float, prior: Prior, rng: torch.Generator) -> Tensor:
    """The labels (V, B) of updates of several steps, each read as one gradient at a share of the way.

    After Adam, whose steps have the signs of gradients and hardly their sizes, they are counted at a linear head.
    """
    if seen[0].spec.local.optimiser == "adam":
        with suppress(ValueError):  # there is no such head
            return labels_read(seen).to(prior.mean.device)
    if seen[0].spec.local.loss != "cross_entropy":  # which `between` cannot express
        return read_labels(seen, torch.stack([observed_step(each) for each in seen]), prior, rng)
    plain = [between(each, share) for each in seen]
    return torch.cat([read_labels([each], observed_step(each)[None], prior, rng) for each in plain])


def singles(seen: Observation, count: int) -> Matcher:
    """Gradients (count, P) of so many images, each as if it were a client's only one in a single step."""
    spec = seen.spec
    one_step = replace(spec, batch_size=1, local=replace(spec.local, epochs=1, steps=0, batch_size=0))
    return matcher_for([replace(seen, spec=one_step, others=())], restarts=count)


def drawn(prior: Prior, count: int, rng: torch.Generator, like: Tensor) -> Tensor:
    """Images (count, C, H, W) from the prior, cut to [0, 1]."""
    u = torch.randn(count, prior.mean.numel(), generator=rng)
    return prior.images(u.to(like)).clamp(0, 1)
