"""What a model is: a sequence of named stages, so that any of them can be a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fl_privacy.registry import Registry
from fl_privacy.seeding import seeded, stream
from fl_privacy.settings import check_settings

ModelFactory = Callable[..., nn.Module]
"""(image_shape (C, H, W), classes, **settings) -> nn.Sequential of named stages, initialised by torch's defaults."""

MODELS: Registry[ModelFactory] = Registry("model")

GIVEN = ("image_shape", "classes")


def build_model(
    name: str, image_shape: tuple[int, int, int], classes: int, seed: int, settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the model called `name` with weights drawn from `seed`.

    `settings` are the factory's own keyword arguments, and `init`: 'default' (torch's) or 'wide' (every weight and bias
    from U(-0.5, 0.5), as DLG's and GRNN's code does: gradients of a sigmoid net vanish without it).

    Raises:
        UnknownName: no such model or setting. ValueError: a value that does not fit, or a factory that fails.
    """
    factory = MODELS[name]
    chosen = dict(settings or {})
    init = chosen.pop("init", "default")
    if init not in ("default", "wide"):
        raise ValueError(f"model '{name}': 'init' takes 'default' or 'wide', not {init!r}")
    chosen = check_settings(f"model '{name}'", factory, chosen)
    with seeded(seed, "model", name):
        model = _built(name, factory, image_shape, classes, chosen)
    if init == "wide":
        rng = stream(seed, "model", name, "wide")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=rng) - 0.5)
    return model


def _built(
    name: str, factory: ModelFactory, image_shape: tuple[int, int, int], classes: int, settings: Mapping[str, Any]
) -> nn.Module:
    called = f"called with image_shape {tuple(image_shape)} and {classes} classes"
    try:
        model: object = factory(image_shape, classes, **settings)
    except ValueError:
        raise
    except Exception as error:  # the user's own code can raise anything
        raise ValueError(
            f"the model '{name}' cannot be built: {called}, it fails with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model '{name}' is no torch.nn.Module: {called}, it returns a {type(model).__name__}")
    return model


def features_out(stages: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The number of values that `stages` make of one image (C, H, W)."""
    with torch.no_grad():
        return int(stages(torch.zeros(2, *image_shape))[0].numel())
