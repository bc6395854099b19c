"""Whether training broke down under a condition, so that its accuracy and its later messages are those of a ruin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from fl_privacy.settings import ReadTable

GROWTH = 10.0
"""How many times the first loss a last one may be before training counts as diverged."""


def broken(conditions: Sequence[ReadTable]) -> dict[str, str]:
    """How the loss grew, by defence, where that on held-out images is no number in the end, or ten times the first.

    `conditions` as in results.json, where null stands for a loss that is NaN or infinite.
    """
    found = {}
    for condition in conditions:
        losses = [
            (row["round"], row["evaluate_metrics_serverapp"]["loss"])
            for row in condition["rounds"]
            if "loss" in (row["evaluate_metrics_serverapp"] or {})
        ]
        if len(losses) > 1 and (how := _growth(losses[0][1], losses[-1][1])):
            found[str(condition["defence"])] = f"the loss {how} after round {losses[-1][0]}"
    return found


def ruins(found: Mapping[str, str], learning_rates: Iterable[float]) -> list[str]:
    """One sentence of what diverged, each with a word on how or where; none where nothing did."""
    if not found:
        return []
    which = ", ".join(f"'{name}' ({how})" for name, how in found.items())
    rates = ", ".join(f"{each:g}" for each in sorted(learning_rates))
    return [
        f"training diverged under {which}. The model accuracy there is that of a broken model, and messages of later "
        f"rounds tell little about one that learns: lower 'learning_rate' ({rates}), or the noise if there is any"
    ]


def _growth(first: float | None, last: float | None) -> str:
    """How a loss grew, in words; empty where it did not, or was broken from the beginning."""
    if first is None or not math.isfinite(first):
        return ""
    if last is None or not math.isfinite(last):
        return f"went from {first:.3g} to no number"
    return f"grew from {first:.3g} to {last:.3g}" if last > GROWTH * max(first, 1.0) else ""
