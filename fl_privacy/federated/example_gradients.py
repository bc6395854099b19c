"""The gradient of every example by itself, and what a chain of defences that needs them makes of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fl_privacy.federated.client import LossOf, SlopeOf, gradient, logits
from fl_privacy.observation import KnownDefence, Tensors
from fl_privacy.weights import moving_statistics, trainable


def example_gradients(
    model: nn.Module, x: Tensor, y: Tensor, loss_of: LossOf = F.cross_entropy
) -> tuple[Tensors, Tensor]:
    """The gradients (B, ...) of each example's loss, by parameter name, and the losses (B,).

    Every module of `model` runs in the mode it is in; x (B, C, H, W), y (B,). By vmap, or one after the other where the
    model has a layer that vmap cannot take, such as a recurrent one. Dropout draws for every example.

    Raises:
        ValueError: as `check_examples`, or as `client.gradient`.
    """
    check_examples(model)
    weights = {name: value.detach() for name, value in trainable(model).items()}
    buffers = {name: value.detach() for name, value in model.named_buffers()}

    def loss(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        state = {**parameters, **{name: value.clone() for name, value in buffers.items()}}
        return loss_of(functional_call(model, state, (image[None],)), label[None])

    logits(model, x[:1])  # for its check
    try:
        found, losses = vmap(grad_and_value(loss), (None, 0, 0), randomness="different")(weights, x, y)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return _one_by_one(model, x, y, loss_of)
    return dict(found), losses.detach()


def _one_by_one(model: nn.Module, x: Tensor, y: Tensor, loss_of: LossOf) -> tuple[Tensors, Tensor]:
    each = [gradient(model, x[i : i + 1], y[i : i + 1], loss_of) for i in range(len(x))]
    stacked = {name: torch.stack([found[name] for found, _ in each]) for name in each[0][0]}
    return stacked, torch.tensor([loss for _, loss in each])


def check_examples(model: nn.Module) -> None:
    """Check that a loss of one example is that example's alone in this model, every module in the mode it is in.

    Raises:
        ValueError: batch normalisation mixes the examples of a batch, or keeps statistics of them.
    """
    mixing = [type(each).__name__ for each in moving_statistics(model)]
    mixing += [type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is None]
    if mixing:
        raise ValueError(
            f"{len(mixing)} layers of the model ({', '.join(sorted(set(mixing)))}) normalise with the statistics of a "
            "batch: an example then has no gradient of its own, every other one's depends on it, and clipping bounds "
            "nothing. Take a model with GroupNorm, or freeze these layers by training in eval mode "
            "(local = { mode = 'eval' } on the update channel)"
        )


def gradient_under(chain: KnownDefence | None, rng: torch.Generator | None) -> SlopeOf:
    """How a client computes gradients under `chain`: as ever, or as a member that acts there wants them.

    `rng` is this client's stream for this round, from which the noise of one step after the other is drawn; None leaves
    the noise out, for adversaries who know the chain.
    """
    if not chain or not chain.in_training:
        return gradient

    def slope(model: nn.Module, x: Tensor, y: Tensor, loss_of: LossOf = F.cross_entropy) -> tuple[Tensors, float]:
        if not chain.by_example:
            whole, loss = gradient(model, x, y, loss_of)
            return chain.on_gradient(whole, model, x), loss
        found, losses = example_gradients(model, x, y, loss_of)
        mean = chain.mean_of_examples(found) if rng is None else chain.on_example_gradients(found, rng)
        return mean, float(losses.mean())

    return slope
