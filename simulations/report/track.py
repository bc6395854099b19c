"""A run's curves and scores for TensorBoard, which is an extra."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results.controls import control_of
from fl_privacy.simulations.results.files import slug

TRACKERS = ("tensorboard",)


def check_tracker(name: str) -> None:
    """Check what is to follow a run before it starts.

    Raises:
        ValueError: there is no such tracker, or it is not installed; the message says how to.
    """
    if name not in TRACKERS:
        raise ValueError(f"'--track' takes {' or '.join(TRACKERS)}, not '{name}'")
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "'--track tensorboard' needs TensorBoard, which is not installed, and a run would end without its curves: "
            "pip install 'fl-privacy[tensorboard]', or leave --track away; results.json has the same numbers"
        )


def track(result: Result) -> Path:
    """Write what the server measured each round and the scores of each row, and return the folder for `--logdir`.

    Every condition and control is a run of its own there, so that their curves lie over each other: 'round/accuracy'
    by round, 'score/psnr' and the like of each attack.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = result.folder / "tensorboard"
    for condition in result.conditions:
        with SummaryWriter(str(folder / slug(condition["defence"]))) as writer:
            for row in condition["rounds"]:
                for key, value in (row["evaluate_metrics_serverapp"] or {}).items():
                    if isinstance(value, int | float):
                        writer.add_scalar(f"round/{key}", value, row["round"])
    for row in result.summary:
        name = row["attack"] if control_of(row) else row["defence"]
        with SummaryWriter(str(folder / slug(name))) as writer:
            for key in ("psnr", "ssim", "mse", "label_accuracy"):
                if row.get(key) is not None:
                    tag = f"score/{key}" if control_of(row) else f"score/{key}/{row['attack']}"
                    writer.add_scalar(tag, row[key], 0)
    return folder
