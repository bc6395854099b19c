"""What the app itself says of the facts that an audit needs: its run config, and its model."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_privacy.observation import LocalTraining
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.auditing.asked import Local, Model, local_training
from fl_privacy.simulations.config.changes import parse_value
from fl_privacy.simulations.config.own import model_factory

NAMES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("learning-rate", "lr", "client-lr", "client-learning-rate", "local-lr"),
    "epochs": ("local-epochs", "epochs", "num-epochs", "num-local-epochs", "client-epochs"),
    "batch_size": ("batch-size", "batchsize", "local-batch-size", "train-batch-size", "bs"),
    "steps": ("local-steps",),
    "momentum": ("momentum",),
    "weight_decay": ("weight-decay",),
    "proximal": ("proximal-mu",),
    "optimiser": ("optimizer", "optimiser"),
}
"""A field of `LocalTraining`, and how apps call it; '_' counts as '-', and nested tables by their last part."""
SIDES = (28, 32, 64, 96, 224, 128, 16, 8, 48, 256, 299)
"""Sides of square images that are tried on a model whose first layer does not say."""


def guessed_local(given: Local | None, told: Sequence[tuple[str, ReadTable]]) -> tuple[LocalTraining | None, list[str]]:
    """Local training as the user gives it, what is missing from the app's words; None without any learning rate.

    `told`: (where, table), the most trusted first. A whole LocalTraining is taken as it is, a table is filled up. The
    sentences say what was guessed.

    Raises:
        ValueError, UnknownName: what was given is no local training.
    """
    value: object = parse_value(given) if isinstance(given, str) else given
    table = dict(value) if isinstance(value, Mapping) else {}
    whole = None if given is None else local_training(given)
    if whole is not None and not isinstance(value, Mapping) and whole.learning_rate:
        return whole, []
    known = whole or LocalTraining()
    said, found = list[str](), dict[str, object]()
    for field, names in NAMES.items():
        if field in table or (field != "learning_rate" and not isinstance(value, Mapping) and whole is not None):
            continue
        for where, words in told:
            flat = {str(key).rpartition(".")[2].replace("_", "-").lower(): each for key, each in words.items()}
            name = next((each for each in names if each in flat), None)
            if name is not None and (fits := _fitting(field, flat[name])) is not None:
                found[field] = fits
                said.append(f"{field} = {fits}, as {where} says under '{name}'")
                break
    if not (known.learning_rate or found.get("learning_rate")):
        return whole, []
    if found.get("optimiser") == "adam":
        found.pop("momentum", None)
    guessed = replace(known, **found)  # type: ignore[arg-type]
    default = asdict(LocalTraining())
    named = {*table, *found}
    plain = [name for name in ("optimiser", "momentum", "weight_decay", "normalise") if name not in named]
    if given is None or isinstance(value, Mapping):
        ways = ", ".join(f"{name} = {default[name]}" for name in plain)
        if not {"batch_size", "steps"} & named:
            said.append(
                "every step on all images at once, because neither --local nor the app's config has a batch_size"
            )
        if plain:
            said.append(f"{ways}, because neither --local nor the app's config says otherwise")
    return guessed, said


def _fitting(field: str, value: object) -> object:
    """The value of a field, None for what cannot be one."""
    if field == "optimiser":
        text = str(value).lower()
        return text if text in ("sgd", "adam") else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    if field in ("epochs", "batch_size", "steps"):
        return int(value) if float(value).is_integer() and (value or field != "epochs") else None
    return float(value)


def app_config(folder: Path) -> ReadTable:
    """[tool.flwr.app.config] of the pyproject.toml in a folder; empty where there is none."""
    try:
        table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        found: object = table["tool"]["flwr"]["app"]["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return _flat(found) if isinstance(found, Mapping) else {}


def _flat(table: Mapping[str, object], before: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def guessed_sizes(
    model: Model | None, shape: str | tuple[int, ...] | None, classes: int | None
) -> tuple[str | tuple[int, ...] | None, int | None, list[str]]:
    """The shape of an image and the number of classes, where a model that is built without arguments tells them.

    The shape is told by the first layer and a forward pass, where images of one size alone go through.
    """
    if model is None or (shape is not None and classes):
        return shape, classes, []
    built = _built(model)
    if built is None:
        return shape, classes, []
    tried = {each: outputs for each in _shapes(built, shape) if (outputs := _outputs(built, each))}
    said = []
    if not classes and len(set(tried.values())) == 1:
        classes = next(iter(tried.values()))
        said.append(f"{classes} classes, as many as the model has outputs")
    if shape is None and len(tried) == 1:
        shape = next(iter(tried))
        said.append(f"images {shape}, the one shape of those tried that goes through the model")
    return shape, classes, said


def _built(model: Model) -> nn.Module | None:
    try:
        factory = model_factory(model) if isinstance(model, str) else model
        made: object = factory if isinstance(factory, nn.Module) else factory()
    except Exception:  # a name that is wrong, or a factory that needs arguments: who builds it later says so
        return None
    return made if isinstance(made, nn.Module) else None


def _shapes(model: nn.Module, shape: str | tuple[int, ...] | None) -> list[tuple[int, int, int]]:
    if isinstance(shape, tuple) and len(shape) == 3:
        return [(shape[0], shape[1], shape[2])]
    if isinstance(shape, str):
        parts = shape.replace("x", ",").split(",")
        return (
            [(int(parts[0]), int(parts[1]), int(parts[2]))]
            if [p.strip().isdigit() for p in parts] == [True] * 3
            else []
        )
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            return [(layer.in_channels, side, side) for side in SIDES]
        if isinstance(layer, nn.Linear):
            sides = {channels: math.isqrt(layer.in_features // channels) for channels in (1, 3)}
            return [(c, side, side) for c, side in sides.items() if c * side * side == layer.in_features]
    return []


@torch.no_grad()
def _outputs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many outputs an image of this shape has, 0 where it does not go through."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        out: object = model(torch.zeros(2, *shape))
    except Exception:  # whatever it is, the answer is no
        return 0
    finally:
        for module, training in modes.items():
            module.training = training
    return out.shape[1] if isinstance(out, Tensor) and out.dim() == 2 and len(out) == 2 else 0
