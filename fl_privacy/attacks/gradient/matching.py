"""Gradient matching: the model's gradient at a guess, differentiable in the guess, for many victims at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd

from fl_privacy.attacks.gradient.normalising import WrittenOut
from fl_privacy.observation import ChannelName, Observation, Tensors
from fl_privacy.seeding import seeded
from fl_privacy.weights import copied, moving_statistics, trainable

Matcher = Callable[[Tensor, Tensor], Tensor]
"""(images (V, B, C, H, W), label probabilities (V, B, classes)) to flat gradients (V, P)."""

PartialSlope = Callable[[Tensors, Tensor | None], Tensors]
"""The gradient, by name, at these weights on the images at these positions; on all of them for None."""
Release = Callable[[Tensors, PartialSlope], Tensors]
"""What a client with these weights sends, in units of a gradient."""


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits (B, classes) against label probabilities (B, classes), stable for any logits."""
    return -(targets * F.log_softmax(logits, 1)).sum(1).mean()


def published_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The same through log(softmax), as GRNN's code has it: -inf x 0 = NaN once a probability underflows."""
    return -(targets * F.softmax(logits, 1).log()).sum(1).mean()


def observed_gradient(seen: Observation) -> Tensor:
    """The gradient (P,) that an observation holds, flat, in the order of the model's trained parameters.

    An update of one plain SGD step is the gradient times minus the learning rate.

    Raises:
        ValueError: the update is no gradient, or the payload does not fit the model.
    """
    local, count = seen.spec.local, seen.examples
    if seen.channel is ChannelName.UPDATE and not local.sends_gradient(count):
        raise ValueError(
            "an update is a gradient only after one plain SGD step on all examples; "
            f"this one took {local.steps_on(count)} steps of {local}: simulate them (`observed_step`, `matcher_for`)"
        )
    return observed_step(seen)


def observed_step(seen: Observation) -> Tensor:
    """What an observation holds (P,), in units of a gradient and in the order of the model's trained parameters.

    The gradient, or of an update the mean over its local steps, as if each had gone down a gradient.

    Raises:
        ValueError: the update's learning rate is not known, or the payload does not fit the model.
    """
    assert seen.model is not None
    shapes = {name: value.shape for name, value in trainable(seen.model).items()}
    absent = sorted(
        name for name, shape in shapes.items() if name not in seen.payload or seen.payload[name].shape != shape
    )
    if absent:
        raise ValueError(
            f"the payload of client {seen.client} lacks a gradient of the right shape for {', '.join(absent)}: "
            "it was not made with this model"
        )
    return torch.cat([seen.payload[name].flatten() for name in shapes]) / gradient_unit(seen)


def gradient_unit(seen: Observation) -> float:
    """What one unit of gradient is in the payload: 1 for a gradient, minus rate times steps for an update.

    Raises:
        ValueError: the update's learning rate is not known.
    """
    if seen.channel is ChannelName.GRADIENT:
        return 1.0
    local = seen.spec.local
    if local.learning_rate <= 0:
        raise ValueError("an update says nothing of gradients unless the learning rate is known: set spec.local's")
    return -local.learning_rate * local.steps_on(seen.examples)


def adversary_copy(model: nn.Module, training: bool) -> nn.Module:
    """A copy of `model` to differentiate through, with each module in the mode in which the clients ran it.

    `training` False: all of them ran in eval mode. Batch normalisation in training mode keeps no running statistics.
    Dropout passes its input on, which is its mean over the masks that a client may have drawn.
    """
    twin = copied(model)
    if not training:
        twin.eval()
    for layer in moving_statistics(twin):
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        layer.track_running_stats = False
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
        elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0
    return twin


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Attention and recurrence by the kernels that have second derivatives: the fused ones have first ones, or none."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def gradient_matcher(
    model: nn.Module,
    victims: int,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
    own: Tensors | None = None,
    released: Release | None = None,
) -> Matcher:
    """A function from guesses to the gradients that `model` would have released for them.

    All victims share the model's weights, so one vmap over the guesses serves them; a single victim goes through plain
    autograd, which is faster there, and so does each where the model has a layer that vmap cannot take. Trained
    parameters come in the model's order; one that the loss does not reach has a zero gradient. A model that draws
    (dropout called as a function, noise) draws the same numbers on every call, from a stream of the attack's own: the
    objective is then a function of the guess. `own`: what each victim has of its own, (V, ...) by name, buffers or
    weights in place of the model's. `released` says what a client makes of its gradients before it sends: by default,
    it sends that of the whole batch.
    """
    own, released = own or {}, released or whole_gradient
    weights = {name: value.detach() for name, value in trainable(model).items()}
    buffers = {name: value.detach() for name, value in model.named_buffers()}

    def loss(parameters: Tensors, images: Tensor, targets: Tensor, own: Tensors) -> Tensor:
        # clones: a forward pass may change its buffers in place, and the next guess must not start from there
        state = {**parameters, **{name: value.clone() for name, value in buffers.items()}, **own}
        return cross_entropy(functional_call(model, state, (images,)), targets)

    def one(images: Tensor, targets: Tensor, mine: Tensors) -> Tensor:
        again = torch.is_grad_enabled()
        at, mine = _parted(weights, mine)

        @torch.enable_grad()
        def slope(now: Tensors, part: Tensor | None) -> Tensors:
            now = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in now.items()}
            return _slopes(loss(now, *_taken(part, images, targets), mine), now, again)

        sent = released({name: value.detach().requires_grad_() for name, value in at.items()}, slope)
        return torch.cat([sent[name].flatten() for name in weights])

    def one_by_one(images: Tensor, targets: Tensor) -> Tensor:
        flat = []
        for victim, (each, target) in enumerate(zip(images, targets, strict=True)):
            with twice_differentiable(model), seeded(0, "attack", "forward"):
                flat.append(one(each, target, {name: value[victim] for name, value in own.items()}))
        return torch.stack(flat)

    def each(images: Tensor, targets: Tensor, mine: Tensors) -> Tensors:
        at, mine = _parted(weights, mine)
        return released(at, lambda now, part: grad(loss)(now, *_taken(part, images, targets), mine))

    per_victim = vmap(each, randomness="same")

    def together(images: Tensor, targets: Tensor) -> Tensor:
        with twice_differentiable(model), WrittenOut(), seeded(0, "attack", "forward"):
            sent = per_victim(images, targets, own)
        return torch.cat([sent[name].reshape(len(images), -1) for name in weights], 1)

    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())  # whose kernels vmap cannot take
    return one_by_one if victims == 1 or recurrent else _first_that_works(together, one_by_one)


def _parted(weights: Tensors, mine: Tensors) -> tuple[Tensors, Tensors]:
    """The weights, with a victim's own in place of those that it has, and what else it has of its own."""
    return {n: mine.get(n, value) for n, value in weights.items()}, {n: mine[n] for n in mine if n not in weights}


def _taken(part: Tensor | None, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return (images, targets) if part is None else (images[part], targets[part])


def _slopes(value: Tensor, weights: Tensors, again: bool) -> Tensors:
    """The gradient of a scalar, by name, zero where it does not reach; differentiable once more if `again`."""
    parameters = list(weights.values())
    found = torch.autograd.grad(value, parameters, create_graph=again, allow_unused=True, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def whole_gradient(weights: Tensors, slope: PartialSlope) -> Tensors:
    """What a client sends who sends the gradient of all its examples."""
    return slope(weights, None)


def _first_that_works(fast: Matcher, slow: Matcher) -> Matcher:
    """`fast`, but `slow` from the first call on that vmap cannot take, such as a path that depends on values."""
    chosen = fast

    def match(images: Tensor, targets: Tensor) -> Tensor:
        nonlocal chosen
        try:
            return chosen(images, targets)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if chosen is slow:
                raise
        chosen = slow
        return chosen(images, targets)

    return match


def check_matchable(model: nn.Module, images: Tensor, classes: int) -> None:
    """Take one step of gradient matching on images (B, C, H, W), as for a single victim; nothing is kept.

    What plain autograd can take is attacked, at worst one victim after the other; functional transforms
    would import torch's compiler at the start of every run.

    Raises:
        ValueError: the model has no logits for `classes`, nothing to train, or no second derivatives.
    """
    twin = adversary_copy(model, True)
    guesses = images.repeat(1, 1, 1, 1, 1).requires_grad_()
    targets = torch.full((1, len(images), classes), 1 / classes)
    try:
        # backward, not grad for the guesses alone: that leaves out the node which would say that it cannot be done
        gradient_matcher(twin, 1)(guesses, targets).square().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(
            "gradients of this model cannot be matched, because a step of the attack fails. It takes logits of "
            f"{classes} classes and operations that torch can differentiate twice: put others in their place. "
            f"torch says: {error}"
        ) from error
