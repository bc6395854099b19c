"""What the judged models say together: AUROC of each detector, its threshold, and whom that flags."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fl_privacy.joint_training.detection import auroc, auroc_interval, flagged, threshold

Row = dict[str, Any]
DETECTORS = ("likelihood", "entropy")
"""1 - S of equations 19 and 20, and the entropy of the outputs in bits: higher is more suspect."""


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a data set, number of classes, kind of model and detector, from the rows of judged models.

    The first half of the honest models, by number, chooses the threshold, so that none of it is above; 'honest' is the
    other half. A vicious kind is compared with all honest models, and 'vicious' is all such kinds together, where there
    are several; an honest kind with all vicious models, so that its AUROC says whether the two can be told apart.
    """
    worlds = dict.fromkeys((row["dataset"], row["classes"]) for row in rows)
    return [line for world in worlds for line in _world([r for r in rows if (r["dataset"], r["classes"]) == world])]


def _world(rows: Sequence[Row]) -> list[Row]:
    """The rows of one data set and number of classes."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in kinds}
    honest = sorted(groups["honest"], key=lambda row: row["number"])
    choosing, groups["honest"] = honest[: len(honest) // 2], honest[len(honest) // 2 :]
    vicious = [row for row in rows if row["kind"].startswith("vicious")]
    if sum(kind.startswith("vicious") for kind in kinds) > 1:
        groups["vicious"] = vicious
    lines = []
    for kind, mine in groups.items():
        low, high = (honest, mine) if kind.startswith("vicious") else (mine, vicious)
        shared = {"dataset": honest[0]["dataset"], "classes": honest[0]["classes"], "kind": kind, "models": len(mine)}
        shared["accuracy"] = fmean(row["accuracy"] for row in mine)
        for detector in DETECTORS:
            limit = threshold(_scores(choosing, detector))
            judgement = {"threshold": limit, "flagged": flagged(_scores(mine, detector), limit)}
            lines.append(shared | _spread(_scores(mine, detector), detector) | judgement | _auroc(low, high, detector))
    return lines


def _scores(rows: Sequence[Row], detector: str) -> list[float]:
    return [row[detector] for row in rows]


def _spread(scores: Sequence[float], detector: str) -> Row:
    return {"detector": detector, "mean": fmean(scores), "lowest": min(scores), "highest": max(scores)}


def _auroc(low: Sequence[Row], high: Sequence[Row], detector: str) -> Row:
    pair = _scores(low, detector), _scores(high, detector)
    return {"auroc": auroc(*pair), "auroc_95": auroc_interval(*pair)}
