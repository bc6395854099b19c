"""Whether training broke down under a condition, so that its accuracy and its later messages are those of a ruin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fl_privacy.settings import ReadTable

GROWTH = 10.0
"""How many times the first loss a last one may be before training counts as diverged."""


def diverged(conditions: Sequence[ReadTable], learning_rate: float) -> list[str]:
    """A sentence for each condition whose loss on held-out images is no number in the end, or ten times the first.

    `conditions` as in results.json, where null stands for a loss that is NaN or infinite.
    """
    found = []
    for condition in conditions:
        losses = [
            (row["round"], row["evaluate_metrics_serverapp"]["loss"])
            for row in condition["rounds"]
            if "loss" in (row["evaluate_metrics_serverapp"] or {})
        ]
        if len(losses) > 1 and (how := _growth(losses[0][1], losses[-1][1])):
            found.append(
                f"training diverged under '{condition['defence']}': the loss {how} after round {losses[-1][0]}. The "
                "model accuracy is that of a broken model, and messages of later rounds tell little about one that "
                f"learns: lower 'learning_rate' ({learning_rate:g}), or the noise if there is any"
            )
    return found


def _growth(first: float | None, last: float | None) -> str:
    """How a loss grew, in words; empty where it did not, or was broken from the beginning."""
    if first is None or not math.isfinite(first):
        return ""
    if last is None or not math.isfinite(last):
        return f"went from {first:.3g} to no number"
    return f"grew from {first:.3g} to {last:.3g}" if last > GROWTH * max(first, 1.0) else ""
