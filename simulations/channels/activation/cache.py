"""Trained split models, kept by all that decides their bits, so that several experiments can share a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fl_privacy import checkpoints
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.channels.activation.protocol import TRAINING, SplitProtocol, batch_size
from fl_privacy.simulations.channels.base import Row
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.results import files

SHARED = (
    *("dataset", "partition", "model", "clients", "clients_per_round", "rounds", "learning_rate"),
    *("train_images", "seed"),
)


def identity(federation: Federation, training: int) -> PlainTable:
    """All that decides the bits of a training, and of the accuracies beside it but for the draw of the noise there."""
    experiment = federation.experiment
    condition = experiment.conditions[training]
    settings = {
        **{key: getattr(experiment, key) for key in SHARED},
        **{key: getattr(condition.settings(SplitProtocol), key) for key in (*TRAINING, "evaluated")},
        "batch_size": batch_size(experiment, condition),
        "defence": condition.trained.label,
        "torch": torch.__version__,
    }
    return training_cache.identity(settings, condition.trained.defences)


def recall(path: Path, note: Note) -> tuple[Tensors, list[Row]] | None:
    """The weights and the rows of a training that was kept; None where there is none, or it is damaged."""
    found: tuple[Tensors, Any] | None = training_cache.sound(path, checkpoints.load, note)
    return None if found is None else (found[0], found[1]["rows"])


def keep(path: Path, facts: PlainTable, state: Tensors, rows: Sequence[Row]) -> None:
    """Keep a training in which every message arrived: what a failure has changed is nobody else's."""
    if all(row["counts"]["received"] == row["counts"]["expected"] for row in rows if row["counts"]):
        checkpoints.save(path, state, {"identity": facts, "rows": list(rows)})


def entry(federation: Federation, training: int) -> Path | None:
    """Where a training lies in the cache; None where the experiment names no cache."""
    folder = federation.experiment.conditions[training].settings(SplitProtocol).cache
    if not folder:
        return None
    digest = training_cache.key(identity(federation, training))
    name = f"{files.slug(federation.experiment.dataset['name'])}_seed{federation.experiment.seed}_{digest}.safetensors"
    return Path(folder).expanduser().absolute() / name
