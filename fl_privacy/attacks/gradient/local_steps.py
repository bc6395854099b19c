"""What a client would send for a guess: its gradient, or what its own local training makes of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.by_example import by_example
from fl_privacy.attacks.gradient.defended import defended
from fl_privacy.attacks.gradient.dropout import read_masks
from fl_privacy.attacks.gradient.matching import (
    Matcher,
    PartialSlope,
    adversary_copy,
    gradient_matcher,
    soft_cross_entropy,
    whole_gradient,
)
from fl_privacy.federated.local_training import local_train, minibatches, normalised, squared_error
from fl_privacy.observation import ChannelName, Observation, Spec, Tensors


def matcher_for(
    seen: Sequence[Observation],
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
    restarts: int = 1,
) -> Matcher:
    """What the victims `seen`, of one model and defence, would have released for a guess, all of them once a restart.

    In units of a gradient, as `observed_step`. An update that is no gradient is simulated step by step, by the function
    that clients run; a mean over clients is the mean of what each would send for its share of the images. Dropout masks
    that can be read are those of each victim; what is certain of a known defence is applied to each client's message.
    """
    first, clients = seen[0], len(seen[0].clients)
    if clients == 1:
        return _of_one_client(seen, cross_entropy, restarts, masked=True)
    alone = replace(first, others=(), spec=replace(first.spec, batch_size=first.examples))
    match = _of_one_client([alone] * (len(seen) * clients), cross_entropy, restarts, masked=False)

    def mean(images: Tensor, targets: Tensor) -> Tensor:
        own = (each.reshape(-1, first.examples, *each.shape[2:]) for each in (images, targets))
        return match(*own).view(len(images), clients, -1).mean(1)

    return mean


def _of_one_client(
    seen: Sequence[Observation], cross_entropy: Callable[[Tensor, Tensor], Tensor], restarts: int, masked: bool
) -> Matcher:
    first, local = seen[0], seen[0].spec.local
    assert first.model is not None
    model = adversary_copy(first.model, first.spec.training_mode)
    model.to(next(iter(first.payload.values())).device)
    read = read_masks(model, seen) if masked else {}
    masks = {name: torch.cat([mask] * restarts) for name, mask in read.items()}
    victims = len(seen) * restarts
    if first.channel is ChannelName.GRADIENT or local.sends_gradient(first.spec.batch_size):
        whole = by_example(whole_gradient, first.defence, first.spec.batch_size)
        match = gradient_matcher(model, victims, cross_entropy, masks, whole)
    else:
        loss = squared_error if local.loss == "squared_error" else cross_entropy
        sent = by_example(partial(mean_step, first.spec), first.defence, first.spec.batch_size)
        inner = gradient_matcher(model, victims, loss, masks, sent)

        def match(images: Tensor, targets: Tensor) -> Tensor:
            return inner(normalised(images, local), targets)

    return defended(match, seen, restarts) if first.defence else match


def mean_step(spec: Spec, weights: Tensors, slope: PartialSlope) -> Tensors:
    """What a client's local training changes from `weights`, over minus the learning rate and the number of steps.

    An adversary does not know the order of the client's examples. For the first epoch the order of the guess's images
    is as good as any other; the later ones, which the client shuffles, are taken in the same.
    """
    local, parts = spec.local, minibatches(spec.local, spec.batch_size, None)

    def of_step(now: Tensors, step: int) -> Tensors:
        whole = len(parts[step]) == spec.batch_size
        return slope(now, None if whole else parts[step])

    final = local_train(weights, of_step, len(parts), local)
    unit = -local.learning_rate * len(parts)
    return {name: (final[name] - value) / unit for name, value in weights.items()}


def order_known(seen: Observation) -> bool:
    """Whether the mini-batches of an update are those of its examples in their own order: the first epoch's alone."""
    local, count = seen.spec.local, seen.examples
    size = local.batch_size or count
    return size >= count or local.steps_on(count) * size < count + size
