"""The checkpoints of a run whose rounds are not over: one a condition, in the run folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from fl_privacy import checkpoints
from fl_privacy.checkpoints import State
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels.base import Row, RunContext
from fl_privacy.simulations.channels.round_log import round_rows
from fl_privacy.simulations.results import layout
from fl_privacy.strategies.records import Counts
from fl_privacy.strategies.resumable import NOTHING, Resumable, counted, history


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where the rounds of a condition are written down while they run."""
    return folder / layout.CHECKPOINTS / f"{name}.safetensors"


def resumable(
    folder: Path, name: str, inner: Strategy, state: State | None, saved: Callable[[int], None] | None = None
) -> Resumable:
    """`inner`, going on from its checkpoint where the folder has one; without a `state` always from the beginning.

    `saved` is told the round of every checkpoint that is written: it will not be played again.

    Raises:
        ValueError: that one is damaged.
    """
    path = checkpoint_of(folder, name)
    last = checkpoints.load(path) if state and path.exists() else None

    def save(tensors: Tensors, facts: PlainTable) -> None:
        checkpoints.save(path, tensors, facts)
        if saved:
            saved(facts["round"])

    return Resumable(inner, state, save, last)


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


def keep_row(run_context: RunContext, condition: int, row: Row, round: int) -> None:
    """Write down that a condition is over, whose last observations are of `round`."""
    facts = {**NOTHING, "round": round, "row": row}
    checkpoints.save(checkpoint_of(run_context.folder, str(condition)), {}, facts)
    run_context.over(condition, round)


def kept_row(folder: Path, condition: int) -> Row | None:
    """The row of a condition that is over; None for one that is not.

    Raises:
        ValueError: its checkpoint is damaged.
    """
    path = checkpoint_of(folder, str(condition))
    row: Row | None = checkpoints.load(path)[1].get("row") if path.exists() else None
    return row


def rows_so_far(folder: Path, labels: Sequence[str]) -> list[Row]:
    """What rounds.json will say once a run is over, as far as its checkpoints know it: one row a condition.

    Raises:
        ValueError: a checkpoint is damaged.
    """
    rows: list[Row] = []
    for condition, label in enumerate(labels):
        path = checkpoint_of(folder, str(condition))
        facts = checkpoints.load(path)[1] if path.exists() else NOTHING
        rows.append(facts.get("row") or {"defence": label, "rounds": _played(facts)})
    return rows


def of_training(counts: Sequence[tuple[int, Counts]]) -> list[tuple[int, Counts]]:
    """Those of the messages in which clients trained."""
    return [(round, each) for round, each in counts if each.message_type.startswith("train")]


def _played(facts: PlainTable) -> list[Row]:
    return round_rows(max(facts["round"], 0), history(facts), of_training(counted(facts)))
