"""What the output channel's report says where two measures of the same pictures disagree."""

from __future__ import annotations

from collections.abc import Sequence

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.results.controls import control_of

RISK, PIXELS = "risk_published", "psnr"


def contradiction(summary: Sequence[ReadTable]) -> str:
    """A warning that names the attacks which R ranks below a blind guess and PSNR above every one; '' without any."""
    known = [row for row in summary if row.get(RISK) is not None and row.get(PIXELS) is not None]
    blind = [row for row in known if control_of(row)]
    if not blind:
        return ""
    risk, pixels = (max(row[key] for row in blind) for key in (RISK, PIXELS))
    found = [
        f"{row['attack']} on '{row['defence']}' (R {row[RISK]:.3f}, {row[PIXELS]:.1f} dB)"
        for row in known
        if not control_of(row) and row[RISK] < risk and row[PIXELS] > pixels
    ]
    if not found:
        return ""
    return (
        f"By R a blind guess (R {risk:.3f}, at most {pixels:.1f} dB) is nearer than {', '.join(found)}, and the "
        "pictures say the opposite: R counts directions in which images hardly differ as much as those one sees, and a "
        "rebuilt image errs there more than their mean. Believe R there only with the share of others nearer. "
    )
