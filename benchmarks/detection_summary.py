"""What the judged models say together: AUROC of each detector, its threshold, and whom that flags."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.detection_user import logs, ratio
from fl_privacy.joint_training.detection import auroc, auroc_interval, flagged, threshold

Row = dict[str, Any]
DETECTORS = ("likelihood", "entropy", "own_decoder")
"""1 - S of equations 19 and 20, the entropy of the outputs in bits, and what a user's own decoder gets beyond the
class: higher is more suspect."""
RATIO = "ratio"
"""All three together, fitted on models that the user trained itself; flagged above 0, so that no honest model of a
server is needed to choose the threshold."""


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a data set, number of classes, kind of model and detector, from the rows of judged models.

    The first half of the honest models, by number, chooses the threshold, so that none of it is above; 'honest' is the
    other half. A vicious kind is compared with all honest models that were trained as long, and 'vicious' is all such
    kinds together, where there are several; an honest kind with all vicious models, so that its AUROC says whether the
    two can be told apart. Worlds in which no two honest models are judged yet are left out.
    """
    worlds = dict.fromkeys((row["dataset"], row["classes"]) for row in rows)
    return [line for world in worlds for line in _world([r for r in rows if (r["dataset"], r["classes"]) == world])]


def _world(rows: Sequence[Row]) -> list[Row]:
    """The rows of one data set and number of classes."""
    references = [row for row in rows if row["kind"].startswith("reference")]
    rows = [row for row in rows if row not in references]
    detectors: tuple[str, ...] = DETECTORS
    if min(sum(row["vicious"] == kind for row in references) for kind in (False, True)) >= 2:
        fitted = ratio(references)
        rows = [{**row, RATIO: fitted.of(logs(row))} for row in rows]
        detectors = (*DETECTORS, RATIO)
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(row["kind"] for row in rows)}
    honest = sorted(groups.get("honest", []), key=lambda row: row["number"])
    if len(honest) < 2:
        return []
    choosing, groups["honest"] = honest[: len(honest) // 2], honest[len(honest) // 2 :]
    vicious = [row for row in rows if row["kind"].startswith("vicious")]
    if sum(kind.startswith("vicious") for kind in groups) > 1:
        groups["vicious"] = vicious
    lines = []
    for kind, mine in groups.items():
        low, high = (honest, mine) if kind.startswith("vicious") else (mine, vicious)
        shared = {"dataset": honest[0]["dataset"], "classes": honest[0]["classes"], "kind": kind, "models": len(mine)}
        shared["accuracy"] = fmean(row["accuracy"] for row in mine)
        leaks = [row["decoder_psnr"] for row in mine if row["decoder_psnr"] is not None]
        shared["decoder_psnr"] = fmean(leaks) if leaks else None
        for detector in detectors:
            limit = 0.0 if detector == RATIO else threshold(_scores(choosing, detector))
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
