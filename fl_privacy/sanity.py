"""A look at what somebody hands in, before anything is believed of it: a model, images, an update of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fl_privacy.federated.client import logits
from fl_privacy.observation import Tensors
from fl_privacy.seeding import seeded
from fl_privacy.weights import trainable

FACTOR = 100.0
"""By how much an update may be larger or smaller than its learning rate and a gradient of the model explain."""
SAME = 0.5
"""A change this close to the weights themselves, as a share of their norm, is no change: it is the weights."""


def check_model(model: nn.Module, images: Tensor, labels: Tensor, classes: int, owner: str = "the model") -> list[str]:
    """One forward and one backward pass of a classifier on a few images (B, C, H, W) with labels (B,); nothing is kept.

    Every module runs in the mode in which it is. Returns what is no error and yet worth a word, a sentence each.

    Raises:
        ValueError: the model cannot be trained on such images to tell `classes` classes; it says what to change.
    """
    if any(is_lazy(each) for each in model.parameters()):
        raise ValueError(
            f"{owner} has lazy layers, whose weights have no shape yet: give them their sizes, or pass zeros of the "
            "image's shape through it in its factory"
        )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with seeded(0, "sanity"):  # dropout may draw what it wants
        try:
            scores = _forward(model, images, owner)
            _check_scores(scores, len(images), classes, owner)
            slopes = _backward(model, scores, labels, owner)
        finally:
            model.load_state_dict(state)
    warnings = []
    if _are_probabilities(scores):
        warnings.append(
            f"{owner} ends in a softmax: its outputs are probabilities, and the cross entropy takes a second softmax of"
            " them, which flattens every gradient. Leave the softmax away, unless that is what you want to measure"
        )
    if all(not bool(slope.any()) for slope in slopes):
        warnings.append(
            f"no parameter of {owner} has a gradient on these images, so that nothing is learnt and nothing leaks: look"
            " for dead activations, or weights that are all zero"
        )
    return warnings


def _forward(model: nn.Module, images: Tensor, owner: str) -> Tensor:
    try:
        return logits(model, images)
    except Exception as error:  # the user's own code can raise anything
        if isinstance(error, ValueError) and "the model returns a" in str(error):
            raise
        shape = tuple(images.shape[1:])
        raise ValueError(
            f"{owner} does not take images of shape {shape}{_why(model, images, error)}. It says: "
            f"{type(error).__name__}: {error}"
        ) from error


def _why(model: nn.Module, images: Tensor, error: Exception) -> str:
    """The likely cause of a forward pass that failed, with its mend; empty where none is known."""
    if "Expected more than 1 value per channel" in str(error):
        return (
            f" in batches of {len(images)}: batch normalisation in training mode needs more than one value a channel. "
            "Raise 'batch_size' above 1, put nn.GroupNorm or nn.LayerNorm in its place, or freeze it with .eval()"
        )
    if other := {value.dtype for value in model.parameters() if value.is_floating_point()} - {images.dtype}:
        kinds = ", ".join(sorted(map(str, other)))
        return f" of type {images.dtype}: it has weights of type {kinds}, so let its factory end with `.float()`"
    if _takes(model, images.permute(0, 2, 3, 1)):
        return (
            ", but (H, W, C): images are (N, C, H, W) here, so let its forward begin with `x = x.permute(0, 2, 3, 1)`"
        )
    if images.shape[1] == 1 and _takes(model, images.repeat(1, 3, 1, 1)):
        return (
            ", but three channels, and these images are grey: give its first layer one, or `x.repeat(1, 3, 1, 1)` first"
        )
    if _takes(model, images.flatten(1)):
        return ", but rows of pixels: let it begin with nn.Flatten()"
    return f": its factory is given image_shape {tuple(images.shape[1:])} and should build layers of that size"


@torch.no_grad()
def _takes(model: nn.Module, images: Tensor) -> bool:
    try:
        model(images.contiguous())
    except Exception:  # whatever it is, the answer is no
        return False
    return True


def _check_scores(scores: Tensor, count: int, classes: int, owner: str) -> None:
    wanted = f"logits of shape (images, classes), here ({count}, {classes})"
    if scores.dim() != 2 or len(scores) != count:
        raise ValueError(
            f"{owner} returns a tensor of shape {tuple(scores.shape)} for {count} images, and training and attacks take"
            f" {wanted}: one row an image and no further dimensions (nn.Flatten(), or a mean over the others)"
        )
    outputs = scores.shape[1]
    if outputs == 1 and classes > 1:
        raise ValueError(
            f"{owner} has one logit, and the data {classes} classes: the cross entropy needs {wanted}. For two classes "
            "`torch.cat([-z, z], 1) / 2` of the one logit z has the same loss; else build the head with the `classes` "
            "that the factory is given"
        )
    if outputs != classes:
        much = "fewer" if outputs < classes else "more"
        raise ValueError(
            f"{owner} has {outputs} outputs, {much} than the {classes} classes of the data: build its last layer with "
            f"the `classes` that the factory is given, as in nn.Linear(width, classes)"
        )
    if not scores.is_floating_point():
        raise ValueError(f"{owner} returns {scores.dtype}, and logits are floating-point: return them before argmax")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(
            f"{owner} returns NaN or infinity on images in [0, 1] with its first weights: look for a logarithm or a "
            "division without a floor, and for weights that are NaN"
        )


def _backward(model: nn.Module, scores: Tensor, labels: Tensor, owner: str) -> tuple[Tensor, ...]:
    """The gradients of the loss, of those parameters that it reaches."""
    parameters = list(trainable(model).values())
    if scores.grad_fn is None:
        raise ValueError(
            f"{owner} returns logits without a gradient, so that it cannot be trained: take torch.no_grad(), .detach() "
            "and .data out of its forward"
        )
    try:
        found = torch.autograd.grad(F.cross_entropy(scores, labels), parameters, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(f"{owner} has a forward pass and no backward one. torch says: {error}") from error
    slopes = tuple(slope for slope in found if slope is not None)
    if not slopes:
        raise ValueError(f"the loss reaches no trainable parameter of {owner}: its logits come from frozen ones alone")
    if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
        raise ValueError(
            f"the gradient of {owner} is NaN or infinite on the first images: look for a square root or a norm at zero,"
            " and add a small number below it"
        )
    return slopes


def _are_probabilities(scores: Tensor) -> bool:
    ones = torch.ones(len(scores), dtype=scores.dtype, device=scores.device)
    return scores.shape[1] > 1 and bool((scores >= 0).all()) and torch.allclose(scores.sum(1), ones, atol=1e-4)


@dataclass(frozen=True)
class Doubt:
    """What is odd about an update: `certain` where no protocol explains it, `words` with what to do."""

    certain: bool
    words: str


def check_update(
    update: Tensors,
    weights: Tensors,
    learning_rate: float,
    steps: int = 1,
    slope: float | None = None,
    factor: float = FACTOR,
) -> list[Doubt]:
    """What is odd about an update of `weights` by `steps` steps of plain descent at `learning_rate`; empty if nothing.

    `slope` is the norm of a gradient of the same model on any images of the same kind, where one is known (see
    `typical_slope`): the update's norm should then be about steps times rate times that, within `factor`.

    Raises:
        ValueError: the update has other names or shapes than the weights, or the rate is not above 0.
    """
    if not learning_rate > 0 or steps < 1:
        raise ValueError(f"learning_rate must be above 0 and steps at least 1, not {learning_rate} and {steps}")
    _check_names(update, weights)
    values = torch.cat([value.double().flatten() for value in update.values()])
    held = torch.cat([weights[name].double().flatten() for name in update])
    if not bool(torch.isfinite(values).all()):
        return [Doubt(True, "the update has NaN or infinite values: training diverged, or the message is damaged")]
    norm, size = float(values.norm()), float(held.norm())
    if norm == 0:
        words = (
            "the update is zero everywhere, so that it holds nothing to attack: did the client train at all, was the "
        )
        return [Doubt(True, words + "global model subtracted from itself, or is every parameter frozen?")]
    doubts = []
    if size and float((values - held).norm()) < SAME * size:
        doubts.append(
            Doubt(
                True,
                "the update is nearly the global weights themselves: a client's new weights were given in its place. "
                "Give what changed, new weights minus old ones",
            )
        )
    if slope and not doubts:
        doubts += _against_rate(norm, learning_rate * steps * slope, learning_rate, factor)
    return doubts


def _against_rate(norm: float, explained: float, rate: float, factor: float) -> list[Doubt]:
    ratio = norm / explained
    if 1 / factor < ratio < factor:
        return []
    much = f"{ratio:.3g} times as large as" if ratio > 1 else f"{1 / ratio:.3g} times smaller than"
    return [
        Doubt(
            False,
            f"the update is {much} a step at learning rate {rate:g} explains: give the rate, the steps and the "
            f"optimiser that the client used (one plain step would need a rate of about {rate * ratio:.2g}), or name "
            "the clip or other scaling that the update went through",
        )
    ]


def _check_names(update: Tensors, weights: Tensors) -> None:
    unknown = [name for name, value in update.items() if name not in weights or weights[name].shape != value.shape]
    if unknown or not update:
        raise ValueError(
            f"the update does not fit the model: {', '.join(unknown[:3]) or 'it is empty'}. Its tensors have the names "
            "and shapes of the model's state dict"
        )


def typical_slope(
    gradient_of: Callable[[Tensor, Tensor], Tensors], image_shape: tuple[int, ...], classes: int
) -> float:
    """The norm of the gradient of one batch of noise images, by which an update's size is judged within a factor."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(classes, *image_shape, generator=rng)
    found = gradient_of(images, torch.arange(classes))
    return float(torch.cat([value.double().flatten() for value in found.values()]).norm())
