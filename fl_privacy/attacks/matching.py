"""Gradient matching: the model's gradient at a guess, differentiable in the guess, for many victims at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

from fl_privacy.defences.base import Chain
from fl_privacy.observation import Channel, Observation

Matcher = Callable[[Tensor, Tensor], Tensor]
"""(images (V, B, C, H, W), label probabilities (V, B, classes)) to flat gradients (V, P)."""


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits (B, classes) against label probabilities (B, classes), stable for any logits."""
    return -(targets * F.log_softmax(logits, 1)).sum(1).mean()


def published_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The same through log(softmax), as GRNN's code has it: -inf x 0 = NaN once a probability underflows."""
    return -(targets * F.softmax(logits, 1).log()).sum(1).mean()


def observed_gradient(seen: Observation) -> Tensor:
    """The gradient (P,) that an observation holds, flat, in the model's parameter order.

    An update of one plain SGD step is the gradient times minus the learning rate.

    Raises:
        ValueError: the update spans several steps, or the payload does not fit the model.
    """
    assert seen.model is not None
    shapes = {name: value.shape for name, value in seen.model.named_parameters()}
    absent = sorted(
        name for name, shape in shapes.items() if name not in seen.payload or seen.payload[name].shape != shape
    )
    if absent:
        raise ValueError(
            f"the payload of client {seen.client} lacks a gradient of the right shape for {', '.join(absent)}: "
            "it was not made with this model"
        )
    flat = torch.cat([seen.payload[name].flatten() for name in shapes])
    if seen.channel is Channel.GRADIENT:
        return flat
    if seen.spec.local_steps != 1 or seen.spec.learning_rate <= 0:
        raise ValueError(
            "an update is a gradient only after one local SGD step at a known learning rate; "
            f"this one took {seen.spec.local_steps} steps at {seen.spec.learning_rate}"
        )
    return flat / -seen.spec.learning_rate


def adversary_copy(model: nn.Module, training: bool) -> nn.Module:
    """A copy of `model` to differentiate through; in training mode batch normalisation keeps no running statistics."""
    copied = copy.deepcopy(model).train(training)
    if training:
        replace_all_batch_norm_modules_(copied)
    return copied


def gradient_matcher(
    model: nn.Module,
    victims: int,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
) -> Matcher:
    """A function from guesses to the gradients that `model` would have released for them.

    All victims share the model's weights, so one vmap over the guesses serves them; a single victim goes through plain
    autograd, which is faster there. Parameters come in `named_parameters()` order.
    """
    names = [name for name, _ in model.named_parameters()]
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.detach() for name, value in model.named_buffers()}

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        logits = functional_call(model, {**parameters, **buffers}, (images,))
        return cross_entropy(logits, targets)

    if victims == 1:
        leaves = {name: value.requires_grad_() for name, value in weights.items()}

        def one(images: Tensor, targets: Tensor) -> Tensor:
            value = loss(leaves, images[0], targets[0])
            gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=torch.is_grad_enabled())
            return torch.cat([g.flatten() for g in gradients]).unsqueeze(0)

        return one

    per_victim = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")

    def many(images: Tensor, targets: Tensor) -> Tensor:
        gradients = per_victim(weights, images, targets)
        return torch.cat([gradients[name].flatten(1) for name in names], 1)

    return many


def defended(match: Matcher, model: nn.Module, chain: Chain) -> Matcher:
    """`match` as an adversary sees it who knows the clients' chain: what is certain of it is applied to every guess."""
    names, shapes = zip(*((name, value.shape) for name, value in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]

    def released(flat: Tensor) -> Tensor:
        parts = zip(names, shapes, torch.split(flat, sizes), strict=True)
        payload = chain.without_noise({name: part.view(shape) for name, shape, part in parts})
        return torch.cat([payload[name].flatten() for name in names])

    return lambda images, targets: torch.stack([released(flat) for flat in match(images, targets)])


def total_variation(images: Tensor) -> Tensor:
    """Squared anisotropic total variation per victim: (V, B, C, H, W) in [0, 1] to (V,).

    (2/B) (sum of squared vertical differences / C(H-1)W + horizontal ones / CH(W-1)).

    Source: Rand2AI/GRNN, whose weight `tv` this scale belongs to; weights of other libraries do not carry over.
    """
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean((1, 2, 3, 4))
    across = (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3, 4))
    return 2 * (down + across)
