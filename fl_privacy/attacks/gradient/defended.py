"""A guess's gradient as the clients' defences would have released it, by an adversary who knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fl_privacy.attacks.gradient.matching import Matcher, gradient_unit
from fl_privacy.federated.local_training import normalised
from fl_privacy.observation import ChannelName, Observation, Tensors
from fl_privacy.seeding import seeded
from fl_privacy.weights import constant, copied, trainable


def defended(match: Matcher, seen: Sequence[Observation], restarts: int = 1) -> Matcher:
    """`match` for the victims `seen`, all of them once a restart, through what is certain of the chain that they ran.

    A chain acts on the payload in the payload's own unit, so that a guess becomes a payload first: for an update, the
    gradient times minus the learning rate, beside the changes that its images make to running statistics.
    """
    first = seen[0]
    model, chain, unit = first.model, first.defence, gradient_unit(first)
    assert model is not None
    assert chain is not None
    shapes = {name: value.shape for name, value in trainable(model).items()}
    sizes = [shape.numel() for shape in shapes.values()]
    change = statistics_change(first) if first.channel is ChannelName.UPDATE else None

    def released(flat: Tensor, images: Tensor, victim: Observation) -> Tensor:
        parts = zip(shapes.items(), torch.split(flat * unit, sizes), strict=True)
        guessed = {name: part.view(shape) for (name, shape), part in parts}
        if change is not None:
            guessed |= change(images)
        payload = chain.as_seen(guessed, victim.payload)
        if payload is guessed:  # nothing is certain of pure noise, and to and fro would cost bits
            return flat
        return torch.cat([payload[name].flatten() for name in shapes]) / unit

    victims = [*seen] * restarts
    return lambda images, targets: torch.stack(
        [released(*each) for each in zip(match(images, targets), images, victims, strict=True)]
    )


def statistics_change(seen: Observation) -> Callable[[Tensor], Tensors] | None:
    """What one forward pass of images (B, C, H, W) adds to the floating-point buffers of the observation's model.

    After several local steps that is an estimate: later passes run with weights that have moved.

    None where the pass adds nothing, because there are no such buffers or all modules run in eval mode.
    """
    assert seen.model is not None
    model = copied(seen.model).to(next(iter(seen.payload.values())).device)
    no_statistics = constant(model) | {name for name, _ in model.named_parameters()}
    start = {n: v.clone() for n, v in model.state_dict().items() if n not in no_statistics}
    if not start or not seen.spec.training_mode:
        return None

    @torch.no_grad()
    def change(images: Tensor) -> Tensors:
        model.load_state_dict(start, strict=False)
        with seeded(0, "attack", "forward"):
            model(normalised(images, seen.spec.local))
        now = model.state_dict()
        return {name: now[name] - value for name, value in start.items() if value.is_floating_point()}

    return change
