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
    Release,
    adversary_copy,
    gradient_matcher,
    soft_cross_entropy,
    whole_gradient,
)
from fl_privacy.attacks.gradient.surrogate import step_factor
from fl_privacy.defences.sign import Sign
from fl_privacy.federated.local_training import local_train, minibatches, normalised, squared_error
from fl_privacy.observation import ChannelName, Observation, Spec, Tensors
from fl_privacy.weights import trainable


def matcher_for(
    seen: Sequence[Observation],
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
    restarts: int = 1,
    *,
    orders: Tensor | None = None,
    shares: Tensor | None = None,
) -> Matcher:
    """What the victims `seen`, of one model and defence, would have released for a guess, all of them once a restart.

    In units of a gradient, as `observed_step`. An update that is no gradient is simulated step by step, by the function
    that clients run; a mean over clients is the mean of what each would send for its share of the images. Dropout masks
    that can be read are those of each victim; what is certain of a known defence is applied to each client's message.

    `orders` (R V, L): the positions of the examples of all mini-batches, one after another, among those of its client,
    and client after client, for R restarts; by default as `minibatches` has them. With `shares` (V,) nothing is
    simulated: every step has the gradient of all examples at one point, the received weights plus that share of the
    update (`surrogate.between`).
    """
    first, clients = seen[0], len(seen[0].clients)
    if clients == 1:
        return _of_one_client(seen, cross_entropy, restarts, True, orders, shares)
    alone = [replace(s, others=(), spec=replace(s.spec, batch_size=s.examples)) for s in seen for _ in range(clients)]
    own_orders = None if orders is None else orders.view(len(orders) * clients, -1)
    own_shares = None if shares is None else shares.repeat_interleave(clients)
    match = _of_one_client(alone, cross_entropy, restarts, False, own_orders, own_shares)

    def mean(images: Tensor, targets: Tensor) -> Tensor:
        own = (each.reshape(-1, first.examples, *each.shape[2:]) for each in (images, targets))
        return match(*own).view(len(images), clients, -1).mean(1)

    return mean


def _of_one_client(
    seen: Sequence[Observation],
    cross_entropy: Callable[[Tensor, Tensor], Tensor],
    restarts: int,
    masked: bool,
    orders: Tensor | None,
    shares: Tensor | None,
) -> Matcher:
    first, local = seen[0], seen[0].spec.local
    assert first.model is not None
    model = adversary_copy(first.model, first.spec.training_mode)
    model.to(next(iter(first.payload.values())).device)
    own = read_masks(model, seen) if masked else {}
    if first.channel is ChannelName.GRADIENT or local.sends_gradient(first.spec.batch_size):
        whole = by_example(whole_gradient, first.defence, first.spec.batch_size)
        match = gradient_matcher(model, len(seen) * restarts, cross_entropy, _repeated(own, restarts), whole)
    else:
        loss = squared_error if local.loss == "squared_error" else cross_entropy
        sent: Release = partial(mean_step, first.spec, orders is not None)
        if shares is not None:
            start = {name: value.detach() for name, value in trainable(model).items()}
            moved = {n: torch.stack([s.payload[n] for s in seen]) for n in start}
            own |= {n: start[n] + shares.view(-1, *[1] * start[n].dim()) * moved[n] for n in start}
            sent = partial(one_point, first.spec, start)
        sent = by_example(sent, first.defence, first.spec.batch_size)
        inner = gradient_matcher(model, len(seen) * restarts, loss, _repeated(own, restarts), sent)

        def match(images: Tensor, targets: Tensor) -> Tensor:
            if orders is not None:
                images, targets = (_in_order(each, orders) for each in (images, targets))
            return inner(normalised(images, local), targets)

    return defended(match, seen, restarts) if first.defence else match


def _repeated(own: Tensors, restarts: int) -> Tensors:
    return {name: torch.cat([value] * restarts) for name, value in own.items()}


def _in_order(each: Tensor, orders: Tensor) -> Tensor:
    """Of every victim's examples (V, B, ...) those at its positions (V, L)."""
    return each[torch.arange(len(each), device=each.device)[:, None], orders]


def mean_step(spec: Spec, in_order: bool, weights: Tensors, slope: PartialSlope) -> Tensors:
    """What a client's local training changes from `weights`, over minus the learning rate and the number of steps.

    An adversary does not know the order of the client's examples. Unless the examples come `in_order`, those of every
    step one after another, all epochs take them as they stand.
    """
    local, parts = spec.local, minibatches(spec.local, spec.batch_size, None)
    if in_order:
        parts = list(torch.split(torch.arange(sum(map(len, parts))), [len(part) for part in parts]))

    def of_step(now: Tensors, step: int) -> Tensors:
        whole = not in_order and len(parts[step]) == spec.batch_size
        return slope(now, None if whole else parts[step])

    final = local_train(weights, of_step, len(parts), local)
    unit = -local.learning_rate * len(parts)
    return {name: (final[name] - value) / unit for name, value in weights.items()}


def one_point(spec: Spec, start: Tensors, weights: Tensors, slope: PartialSlope) -> Tensors:
    """The same as if every step from `start` had had the gradient of all examples at `weights`.

    Every step of Adam would then be that gradient's signs, which have the slope of something smooth (`Sign`).
    """
    local, found = spec.local, slope(weights, None)
    if local.optimiser == "adam":
        return Sign(scale=1.0).without_noise(found)
    factor = step_factor(local, local.steps_on(spec.batch_size))
    return {
        n: factor * (found[n] + local.weight_decay * weights[n] + local.proximal * (weights[n] - start[n]))
        for n in weights
    }


def order_known(seen: Observation) -> bool:
    """Whether the mini-batches of an update are those of its examples in their own order: the first epoch's alone."""
    local, count = seen.spec.local, seen.examples
    size = local.batch_size or count
    return size >= count or local.steps_on(count) * size < count + size
