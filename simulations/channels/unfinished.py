"""The checkpoints of a run whose rounds are not over: one a condition, in the run folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from fl_privacy.simulations.results import checkpoints, files
from fl_privacy.strategies.resumable import Resumable


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where the rounds of a condition are written down while they run."""
    return folder / files.CHECKPOINTS / f"{name}.safetensors"


def resumable(folder: Path, name: str, inner: Strategy, stateful: Strategy) -> Resumable:
    """`inner`, going on from its checkpoint where the folder has one.

    Raises:
        ValueError: that one is damaged.
    """
    path = checkpoint_of(folder, name)
    last = checkpoints.load(path) if path.exists() else None
    return Resumable(inner, stateful, partial(checkpoints.save, path), last)
