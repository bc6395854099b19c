"""What running statistics tell: the mean and variance that batch normalisation took of the private batch itself.

A client that trains in training mode sends its buffers with its weights, as FedAvg averages both: new = (1 - m) old +
m batch, so that after one step the batch's statistics follow, exactly up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_privacy.attacks.gradient.matching import adversary_copy
from fl_privacy.federated.local_training import normalised
from fl_privacy.observation import ChannelName, Observation
from fl_privacy.seeding import seeded
from fl_privacy.weights import moving_statistics


@dataclass(frozen=True)
class Moments:
    """Of a layer's inputs, over a batch and its positions: `mean` (C,), and `variance` (C,) over n - 1."""

    mean: Tensor
    variance: Tensor


def sent_statistics(seen: Observation) -> Mapping[str, Moments]:
    """The batch's moments at each layer of batch normalisation, by the layer's name, in float64.

    Empty where the message does not tell: a gradient has no buffers, several steps leave a mixture of theirs, several
    clients the mean of theirs, and of a message behind a defence nothing is certain.
    """
    whole = seen.channel is ChannelName.UPDATE and seen.spec.local.sends_gradient(seen.spec.batch_size)
    if seen.model is None or not whole or seen.defence or len(seen.clients) > 1 or not seen.spec.training_mode:
        return {}
    names = {module: name for name, module in seen.model.named_modules()}
    found = {}
    for layer in moving_statistics(seen.model):
        at = names[layer]
        moved = [seen.payload.get(f"{at}.{buffer}") for buffer in ("running_mean", "running_var")]
        if not isinstance(layer, _BatchNorm) or layer.running_mean is None or layer.running_var is None:
            return {}
        if moved[0] is None or moved[1] is None:
            return {}
        share = _share(layer)
        if not share:
            return {}
        mean, variance = (
            old.double() + each.to(old.device).double() / share
            for old, each in zip((layer.running_mean, layer.running_var), moved, strict=True)
            if each is not None
        )
        found[at] = Moments(mean.cpu(), variance.clamp_min(0.0).cpu())
    return found


def _share(layer: nn.Module) -> float:
    """How much of the new running statistics are the batch's."""
    assert isinstance(layer, _BatchNorm)
    if layer.momentum is not None:
        return layer.momentum
    seen = 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
    return 1 / (seen + 1)  # torch's word for the plain mean over batches


def moments_apart(seen: Sequence[Observation]) -> Callable[[Tensor], Tensor] | None:
    """How far images (V, B, C, H, W) are from the moments that the victims `seen`, of one model, sent: (V, S).

    Means in deviations, variances as a share of themselves, differentiable. None where one of them sent none.
    """
    first, sent = seen[0], [sent_statistics(each) for each in seen]
    if first.model is None or not all(sent):
        return None
    model = adversary_copy(first.model, True).to(next(iter(first.payload.values())))
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    def of(images: Tensor, moments: Mapping[str, Moments]) -> Tensor:
        taken = dict[str, Tensor]()

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda module, inputs: taken.update({name: inputs[0]})

        hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in moments]
        try:
            with seeded(0, "attack", "forward"):
                model(normalised(images, first.spec.local))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([_apart(taken[name], known) for name, known in moments.items()])

    def all_of(images: Tensor) -> Tensor:
        victims = sent * (len(images) // len(sent))
        return torch.stack([of(*each) for each in zip(images, victims, strict=True)])

    return all_of


def _apart(inputs: Tensor, known: Moments) -> Tensor:
    """Of a layer's inputs (B, C, ...): (2 C,)."""
    mean, variance = known.mean.to(inputs), known.variance.to(inputs).clamp_min(1e-12)
    over = [0, *range(2, inputs.dim())]
    found, centre = torch.var_mean(inputs, over, correction=1)
    return torch.cat([(centre - mean) / variance.sqrt(), found / variance - 1])
