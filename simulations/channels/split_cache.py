"""Trained split models, kept by all that decides their bits, so that several experiments can share a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fl_privacy.observation import Tensors
from simulations import files, training_cache
from simulations.attacking import Note
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
    settings = {
        **{key: getattr(experiment, key) for key in SHARED},
        **{key: getattr(arm.rules, key) for key in (*TRAINING, "evaluated")},
        "batch_size": batch_size(experiment, arm),
        "defence": arm.trained.label,
        "torch": torch.__version__,
    }
    return training_cache.identity(settings, arm.trained.defences)


def recall(path: Path, note: Note) -> tuple[Tensors, list[Row]] | None:
    """The weights and the rows of a training that was kept; None where there is none, or it is damaged."""
    found: tuple[Tensors, Any] | None = training_cache.sound(path, training_cache.load, note)
    return None if found is None else (found[0], found[1]["rows"])


def keep(path: Path, facts: dict[str, Any], state: Tensors, rows: Sequence[Row]) -> None:
    """Keep a training in which every message arrived: what a failure has changed is nobody else's."""
    if all(row["counts"]["received"] == row["counts"]["expected"] for row in rows if row["counts"]):
        training_cache.save(path, state, {"identity": facts, "rows": list(rows)})


def entry(world: World, training: int) -> Path | None:
    """Where a training lies in the cache; None where the experiment names no cache."""
    folder = world.experiment.each_arm[training].rules.cache
    if not folder:
        return None
    digest = training_cache.key(identity(world, training))
    name = f"{files.slug(world.experiment.dataset['name'])}_seed{world.experiment.seed}_{digest}.safetensors"
    return Path(folder).expanduser().absolute() / name
