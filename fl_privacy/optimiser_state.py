"""An optimiser's state as named tensors, so that it can be kept where model weights are."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_privacy.observation import Tensors


def optimiser_state(optimiser: torch.optim.Optimizer | None) -> Tensors:
    """Copies of the state tensors by '<parameter index>.<name>'; empty for none, for SGD, and before the first step."""
    if optimiser is None:
        return {}
    return {
        f"{index}.{name}": value.detach().clone()
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer | None, tensors: Tensors) -> None:
    """Put back what `optimiser_state` gave, bit for bit, into an optimiser over the same parameters."""
    if optimiser is None or not tensors:
        return
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
