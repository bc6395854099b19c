"""Dropout masks read from a gradient: a unit that was dropped leaves zeros where its weights' gradient would be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fl_privacy.observation import ChannelName, Observation, Tensors
from fl_privacy.seeding import seeded
from fl_privacy.weights import trainable

READABLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # those that drop to zero


class KnownMask(nn.Module):
    """Dropout with a mask that is known: it multiplies by `scale`, 0 where dropped and 1 / (1 - p) where kept."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def read_masks(model: nn.Module, seen: Sequence[Observation]) -> Tensors:
    """Put a `KnownMask` for every dropout in `model` whose mask can be read; the masks (V, ...) by buffer name.

    `model` is the adversary's copy, changed in place; `seen` are V observations of it. A mask can be read where batch
    size is 1 and what dropout lets through is all that a trained linear layer takes: the gradient of its weight is
    (dL/dz) h^T, whose columns are zero where h is. Noise hides the zeros: such an observation has a mask of ones, which
    is dropout's mean. A unit that is zero by itself (ReLU) reads as dropped, with the same gradient.

    That dropout's mask is the attacker's to find: Scheliga, Mäder and Seeland 2023 (arXiv 2208.06163), who optimise it.
    """
    first = seen[0]
    assert first.model is not None
    steps = first.channel is ChannelName.UPDATE and not first.spec.local.sends_gradient(1)  # a mask of its own each
    if first.spec.batch_size != 1 or not first.spec.training_mode or steps:
        return {}
    masks: Tensors = {}
    for name, (layer, shape) in _read_by(model, first).items():
        dropout = first.model.get_submodule(name)
        assert isinstance(dropout, _DropoutNd)
        alive = torch.stack([each.payload[f"{layer}.weight"].ne(0).any(0) for each in seen])
        hidden = alive.all(1, keepdim=True) | ~alive.any(1, keepdim=True)
        scale = torch.where(hidden, 1.0, alive / (1 - dropout.p))
        masks[f"{name}.scale"] = scale.to(first.payload[f"{layer}.weight"].dtype).view(len(seen), *shape)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, KnownMask(masks[f"{name}.scale"][0]))
    return masks


@torch.no_grad()
def _read_by(model: nn.Module, seen: Observation) -> dict[str, tuple[str, torch.Size]]:
    """By name of a dropout module: the linear layer that takes what it lets through, and the shape of one mask.

    Found by one forward pass: the layer's input lies where dropout's output does, whatever flattened it in between.
    """
    assert seen.model is not None
    droppers = [n for n, m in seen.model.named_modules() if type(m) in READABLE and m.training and 0 < m.p < 1]
    if not droppers:
        return {}
    weights, calls, hooks = trainable(model), list[tuple[str, Tensor]](), []
    for name, module in model.named_modules():
        if name in droppers:
            hooks.append(module.register_forward_hook(partial(_let_through, calls, name)))
        elif isinstance(module, nn.Linear) and f"{name}.weight" in weights:
            hooks.append(module.register_forward_pre_hook(partial(_taken, calls, name)))
    try:
        with seeded(0, "attack", "forward"):
            model(torch.full((1, *seen.spec.image_shape), 0.5, device=next(iter(seen.payload.values())).device))
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: value for name, value in calls if [each for each, _ in calls].count(name) == 1}
    return {
        dropper: (layer, once[dropper].shape[1:])
        for dropper in droppers
        for layer, taken in once.items()
        if dropper in once
        and layer not in droppers
        and taken.dim() == 2
        and taken.numel() == once[dropper].numel()
        and taken.data_ptr() == once[dropper].data_ptr()
    }


def _let_through(calls: list[tuple[str, Tensor]], name: str, module: nn.Module, args: object, out: Tensor) -> Tensor:
    kept = out.clone()  # a tensor of its own: dropout in eval mode hands its input on
    calls.append((name, kept))
    return kept


def _taken(calls: list[tuple[str, Tensor]], name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    calls.append((name, args[0]))
