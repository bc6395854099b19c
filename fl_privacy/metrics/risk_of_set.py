"""The reconstruction risk of a set of guesses, in every geometry that the evaluator has."""

from __future__ import annotations

from typing import Any

from fl_privacy.metrics.reconstruction_risk import closer_truths, reconstruction_risk
from fl_privacy.metrics.sets import SET_METRICS, MatchedSet


@SET_METRICS.register("reconstruction_risk", needs=("geometry",))
def risk_of_set(matched: MatchedSet) -> dict[str, Any]:
    """R of the set by geometry NAME: 'NAME' (mean), 'NAME_median', 'NAME_exact' and 'NAME_cut', which says the cut.

    'NAME_closer': the share of the set's other images that lie nearer to a guess than its own, 0 at best, .5 by chance.

    Source: Malekzadeh and Gündüz, equation 6.
    """
    assert matched.geometry is not None
    row: dict[str, Any] = {}
    for name, factors in matched.geometry().items():
        risk = reconstruction_risk(factors, matched.guesses, matched.truth)
        row |= {name: risk.mean, f"{name}_median": risk.median, f"{name}_exact": risk.exact, f"{name}_cut": risk.label}
        if len(matched.truth) > 1:
            row[f"{name}_closer"] = float(closer_truths(factors, matched.guesses, matched.truth).double().mean())
    return row
