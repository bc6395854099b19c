"""Soteria: the gradient of the head without the features that tell most of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.observation import Tensors
from fl_privacy.weights import copied

AT_ONCE = 64
"""Features whose slopes are computed together."""


@DEFENCES.register("soteria")
@dataclass(frozen=True)
class Soteria(Defence):
    """Zeroes, in the gradient of the last linear layer, the columns of the `share` of its inputs that tell most.

    A feature r tells |r| / ||dr/dx|| of an image x, and of a batch the mean. All other gradients, and the layer's bias,
    are released as they are. 0 changes nothing. A client needs its images and model for that, so that it acts where
    gradients are computed, in every local step. A release shows which columns were taken, after several steps those
    that each of them took; an adversary compares the others.

    Source: Sun et al. 2021, Soteria: provable defense against privacy leakage in federated learning from representation
    perspective (arXiv 2012.06043); what is left over is enough for Balunovic et al. 2022 (arXiv 2111.04706).
    """

    share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie between 0 (which changes nothing) and 1, not {self.share}")

    @property
    def in_training(self) -> bool:
        return self.share > 0

    def on_gradient(self, gradient: Tensors, model: nn.Module, x: Tensor) -> Tensors:
        name = _head(gradient)
        value = gradient[name]
        told = _told(model, name, x)
        taken = told.topk(math.ceil(self.share * len(told))).indices
        return {**gradient, name: value.index_fill(1, taken.to(value.device), 0.0)}

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        if not self.share:
            return payload
        name = _head(payload)
        return {**payload, name: torch.where((released[name] == 0).all(0), 0.0, payload[name])}

    def norm_bound(self, before: float) -> float:
        return before


def _head(tensors: Tensors) -> str:
    """The name of the last linear layer's weight.

    Raises:
        ValueError: none of these tensors is a matrix.
    """
    matrices = [name for name, value in tensors.items() if value.dim() == 2]
    if not matrices:
        raise ValueError(
            "'soteria' takes columns out of the gradient of a linear layer, and the model trains none: take another "
            "model, or another defence, such as 'prune'"
        )
    return matrices[-1]


@torch.enable_grad()
def _told(model: nn.Module, weight: str, x: Tensor) -> Tensor:
    """What each input (F,) of the layer with this weight tells of images x (B, ...), all layers in eval mode."""
    twin, taken = copied(model).eval().requires_grad_(False), list[Tensor]()
    layer = twin.get_submodule(weight.rpartition(".")[0])
    layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    images = x.detach().clone().requires_grad_()
    twin(images)
    features = taken[-1].reshape(len(x), -1, taken[-1].shape[-1]).sum(1)
    squares = []
    for chosen in torch.split(torch.eye(features.shape[1]).to(features), AT_ONCE):
        each = chosen[:, None].expand(-1, len(x), -1)
        (slopes,) = torch.autograd.grad(features, images, each, retain_graph=True, is_grads_batched=True)
        squares.append(slopes.flatten(2).square().sum(2))
    norms = torch.cat(squares).T.sqrt()
    return (features.detach().abs() / norms.clamp_min(torch.finfo(norms.dtype).tiny)).nan_to_num(0.0).mean(0)
