"""Trained split models, kept by all that decides their bits, so that several experiments can share a training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from fl_privacy.observation import Tensors
from simulations import files
from simulations.channels.base import Row
from simulations.channels.split_protocol import TRAINING, batch_size

if TYPE_CHECKING:
    from simulations.world import World

SHARED = (
    *("dataset", "partition", "model", "clients", "clients_per_round", "rounds", "learning_rate"),
    *("train_images", "seed"),
)


def identity(world: World, training: int) -> dict[str, Any]:
    """All that decides the bits of a training, and of the accuracies beside it but for the draw of the noise there."""
    experiment = world.experiment
    arm = experiment.each_arm[training]
    return {
        **{key: getattr(experiment, key) for key in SHARED},
        **{key: getattr(arm.rules, key) for key in (*TRAINING, "evaluated")},
        "batch_size": batch_size(experiment, arm),
        "defence": arm.trained.label,
        "torch": torch.__version__,
    }


def recall(world: World, training: int) -> tuple[Tensors, list[Row]] | None:
    """The weights and the rows of a training that was kept; None where there is none, or no cache."""
    path = _path(world, training)
    if path is None or not path.exists():
        return None
    return safetensors.torch.load_file(path), files.read_json(path.with_suffix(".json"))["rows"]


def keep(world: World, training: int, state: Tensors, rows: Sequence[Row]) -> None:
    """Keep a training in which every message arrived: what a failure has changed is nobody else's."""
    path = _path(world, training)
    whole = all(row["counts"]["received"] == row["counts"]["expected"] for row in rows if row["counts"])
    if path is not None and whole:
        files.write_json(path.with_suffix(".json"), {"identity": identity(world, training), "rows": list(rows)})
        files.write_tensors(path, state)


def _path(world: World, training: int) -> Path | None:
    folder = world.experiment.each_arm[training].rules.cache
    if not folder:
        return None
    text = json.dumps(identity(world, training), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"{files.slug(world.experiment.dataset['name'])}_seed{world.experiment.seed}_{digest}.safetensors"
    return Path(folder).expanduser().absolute() / name
