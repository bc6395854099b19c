"""Cutting a model at named stages into the segments that different parties hold."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from fl_privacy.weights import tied


def stages(model: nn.Module) -> list[str]:
    """The stage names of a model given as a sequence, in order.

    Raises:
        TypeError: the model is not an nn.Sequential.
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(
            f"a model that is to be cut must be an nn.Sequential of stages, not {type(model).__name__}: what runs in "
            "between of its parts is not known otherwise. Write it as nn.Sequential(OrderedDict(name=module, ...))."
        )
    return [name for name, _ in _children(model)]


def cut(model: nn.Module, *after: str) -> tuple[nn.Sequential, ...]:
    """Cut `model` after each named stage: `client, server = cut(model, "conv1")`; two names give three segments.

    The segments share the model's modules and keep their names, so their state dicts are disjoint and together the
    model's. Stages of an nn.Sequential without names are called '0', '1', and so on.

    Raises:
        TypeError: the model is not an nn.Sequential.
        ValueError: no such stage, a cut after the last stage, cuts that are not in the model's order, or a weight that
            stages on both sides of a cut share.
    """
    names = stages(model)
    for name in after:
        if name not in names:
            raise ValueError(f"cannot cut after '{name}': the model's stages are {', '.join(names)}")
    ends = [names.index(name) + 1 for name in after]
    if any(late <= early for early, late in pairwise(ends)):
        raise ValueError(f"cuts must follow the model's order ({', '.join(names)}), not {', '.join(after)}")
    if ends and ends[-1] == len(names):
        raise ValueError(f"'{after[-1]}' is the last stage: a cut after it leaves the next party nothing to compute")
    bounds = [0, *ends, len(names)]
    _check_apart(model, names, bounds)
    children = _children(model)
    return tuple(nn.Sequential(OrderedDict(children[start:end])) for start, end in pairwise(bounds))


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every stage by name; `named_children` would list a module that stands at two places once."""
    return [(name, stage) for name, stage in model._modules.items() if stage is not None]


def _check_apart(model: nn.Module, names: list[str], bounds: list[int]) -> None:
    """Two parties cannot hold one weight: each would train a copy of its own."""
    segment = {name: i for i, (start, end) in enumerate(pairwise(bounds)) for name in names[start:end]}
    for name, first in tied(model).items():
        if segment[name.split(".")[0]] != segment[first.split(".")[0]]:
            raise ValueError(
                f"'{first}' and '{name}' are one weight, and a cut lies between them: two parties would train a copy "
                "each. Cut elsewhere, or give the layers weights of their own."
            )


def rejoin(*segments: nn.Sequential) -> nn.Sequential:
    """The model that `segments` are cut from, sharing their modules.

    Raises:
        ValueError: two segments have a stage of the same name.
    """
    merge_restarts = [(name, stage) for segment in segments for name, stage in _children(segment)]
    names = [name for name, _ in merge_restarts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two segments have a stage called {', '.join(twice)}: they are not parts of one model")
    return nn.Sequential(OrderedDict(merge_restarts))
