"""Which of a model's tensors are weights, and under which name: a state dict alone does not say.

A state dict lists a weight that two layers share under both names, and frozen weights and statistics beside the trained
ones; `named_parameters` lists each weight once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fl_privacy.observation import Tensors


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, each once, in the model's order: those of which a gradient is released.

    Raises:
        ValueError: there is none.
    """
    found = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not found:
        raise ValueError("every parameter of the model is frozen (requires_grad is False): there is nothing to train")
    return found


def tied(model: nn.Module) -> dict[str, str]:
    """Every further name of a weight or buffer that several modules share, with the first one's name."""
    first: dict[int, str] = {}
    both = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names = [(name, first.setdefault(id(value), name)) for name, value in both]
    return {name: known for name, known in names if name != known}


def constant(model: nn.Module) -> frozenset[str]:
    """The names in a state dict that no defence need touch: further names of shared weights, and frozen weights."""
    shared = tied(model)
    return frozenset(shared) | {name for name, value in model.named_parameters() if not value.requires_grad}


def load_weights(model: nn.Module, weights: Tensors) -> None:
    """`load_state_dict`, but that a shared weight has the value under its first name, whatever the others say."""
    shared = tied(model)
    model.load_state_dict({**weights, **{name: weights[known] for name, known in shared.items() if known in weights}})


def with_tied(weights: Tensors, shared: Mapping[str, str]) -> Tensors:
    """`weights` with the value of the first name under each further name of `shared`; the order is kept."""
    return {name: weights[shared.get(name, name)] for name in weights}


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that a module computes from its weights and keeps (old weight normalisation) come along."""
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept if not value.is_leaf})


def moving_statistics(model: nn.Module) -> list[_NormBase]:
    """The layers that normalise with the batch's statistics now and with running ones later (batch normalisation).

    A layer that its model keeps in eval mode is none of them: it always uses the statistics that it has.
    """
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
