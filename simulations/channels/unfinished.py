"""The checkpoints of a run whose rounds are not over: one a condition, in the run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from fl_privacy import checkpoints
from fl_privacy.simulations.channels.base import Row
from fl_privacy.simulations.channels.round_log import round_rows
from fl_privacy.simulations.results import layout
from fl_privacy.strategies.resumable import NOTHING, Resumable, counted, history


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where the rounds of a condition are written down while they run."""
    return folder / layout.CHECKPOINTS / f"{name}.safetensors"


def resumable(folder: Path, name: str, inner: Strategy, stateful: Strategy) -> Resumable:
    """`inner`, going on from its checkpoint where the folder has one.

    Raises:
        ValueError: that one is damaged.
    """
    path = checkpoint_of(folder, name)
    last = checkpoints.load(path) if path.exists() else None
    return Resumable(inner, stateful, partial(checkpoints.save, path), last)


def forget_unfinished(folder: Path) -> None:
    """Remove the observations of rounds that will be played again: all after the checkpoint of their condition.

    What is played again is written again; a file of the time before would stand beside those of now.

    Raises:
        ValueError: a checkpoint is damaged.
    """
    reached: dict[str, int] = {}
    # facts go before what they tell of: whoever is killed here leaves none without it
    for path in sorted((folder / layout.OBSERVATIONS).glob("*_r*_*"), key=lambda path: path.suffix):
        found = re.match(r"(\d+)_r(\d+)_", path.name)
        if found is None:
            continue
        condition = found[1]
        if condition not in reached:
            last = checkpoint_of(folder, condition)
            reached[condition] = checkpoints.load(last)[1]["round"] if last.exists() else NOTHING["round"]
        if int(found[2]) > reached[condition]:
            path.unlink(missing_ok=True)


def rows_so_far(folder: Path, labels: Sequence[str]) -> list[Row]:
    """What rounds.json will say once a run is over, as far as its checkpoints know it: one row a condition.

    Raises:
        ValueError: a checkpoint is damaged.
    """
    rows: list[Row] = []
    for condition, label in enumerate(labels):
        path = checkpoint_of(folder, str(condition))
        facts = checkpoints.load(path)[1] if path.exists() else NOTHING
        trained = [each for each in counted(facts) if each.message_type.startswith("train")]
        played = round_rows(max(facts["round"], 0), history(facts), list(enumerate(trained, start=1)))
        rows.append({"defence": label, "rounds": played})
    return rows
