"""Messages of an attacker's own images: by the clients' own function, through the clients' own chain."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fl_privacy.federated.example_gradients import gradient_under
from fl_privacy.federated.local_training import train_locally
from fl_privacy.observation import ChannelName, Images, Observation, Tensors
from fl_privacy.seeding import seeded, stream, subseed
from fl_privacy.weights import constant, copied, trainable

Client = Callable[[Tensor, Tensor, int], Tensors]
"""(images (B, C, H, W), labels (B,), seed) to the payload that would be received for them, with the draws of `seed`."""


def simulated_client(seen: Observation, noisy: bool = True) -> Client:
    """What the clients behind an observation would have sent for other images: the function that they run themselves.

    All that they draw (dropout, the order of mini-batches, noise) is drawn afresh from `seed`; `noisy` False: what is
    certain of their defences acts in place of what they draw. Of a mean over clients the images are dealt to them in
    order.
    """
    assert seen.model is not None
    local, clients = seen.spec.local, len(seen.clients)
    model = copied(seen.model).to(next(iter(seen.payload.values())).device)
    if local.mode == "eval":
        model.eval()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fixed = constant(model)
    changes = seen.channel is ChannelName.UPDATE or any(True for _ in model.buffers())

    def computed(images: Tensor, labels: Tensor, seed: int) -> Tensors:
        if changes:
            model.load_state_dict(start)
        slope = gradient_under(seen.defence, stream(seed, "examples") if noisy else None)
        with seeded(seed, "attack", "forward"), torch.enable_grad():
            if seen.channel is ChannelName.GRADIENT:
                return slope(model, images, labels)[0]
            train_locally(model, images, labels, local, stream(seed, "shuffle"), slope)
        now = ((name, value.detach()) for name, value in model.state_dict().items() if name not in fixed)
        return {name: value - start[name] for name, value in now if value.is_floating_point()}

    def one(images: Tensor, labels: Tensor, seed: int) -> Tensors:
        payload = {name: value.detach() for name, value in computed(images, labels, seed).items()}
        if not seen.defence:
            return payload
        return (
            seen.defence.on_release(payload, subseed(seed, "defence")) if noisy else seen.defence.without_noise(payload)
        )

    def mean(images: Tensor, labels: Tensor, seed: int) -> Tensors:
        shares = zip(torch.chunk(images, clients), torch.chunk(labels, clients), strict=True)
        sent = [one(*share, subseed(seed, client)) for client, share in enumerate(shares)]
        return {name: torch.stack([each[name] for each in sent]).mean(0) for name in sent[0]}

    return one if clients == 1 else mean


def labelled(owned: Images, classes: int, rng: torch.Generator) -> Images:
    """The attacker's images with their labels, or with random ones where it has none: a client trains on labels."""
    if owned.labels is not None:
        return owned
    return Images(owned.inputs, torch.randint(classes, (len(owned),), generator=rng).to(owned.inputs.device))


def relative_mismatch(seen: Observation, inputs: Tensor, labels: Tensor) -> float:
    """||c(g(x, y)) - r|| / ||r||: what images (B, C, H, W) with labels (B,) would have released, and what was, r.

    c is what is certain of a known chain: a clip, signs, pruning, but no noise. 0 is exact, 1 what zero reaches.
    """
    assert seen.model is not None
    received = next(iter(seen.payload.values()))
    sent = simulated_client(seen, noisy=False)(inputs.to(received), labels.to(received.device), 0)
    names = list(trainable(seen.model))
    apart = sum(float((sent[name] - seen.payload[name]).double().square().sum()) for name in names)
    size = sum(float(seen.payload[name].double().square().sum()) for name in names)
    return math.sqrt(apart / max(size, 1e-300))
