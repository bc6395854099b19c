"""The columns and the words of `instance_detail`: what a guess tells beyond the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_privacy.settings import ReadTable

INSTANCE: Mapping[str, tuple[str, str]] = {
    "which of\nits class": ("instance_right", "{:.0%}"),
    "by\nchance": ("instance_chance", "{:.1%}"),
}


def instances(summary: Sequence[ReadTable], sent: bool) -> str:
    """By what a guess is judged beyond the class, and where that is `sent`, that it is no secret; '' if unmeasured."""
    most = max((row["instance_candidates"] for row in summary if row.get("instance_candidates")), default=0)
    if not most:
        return ""
    told = "The class is sent by design, so that it is no secret here, and more than it is needed for a leak. "
    return (
        f"{told if sent else ''}Which of its class: how often a guess is likest to its own image among up to {most} "
        "private ones of the same class; who knows the class and nothing else gets what stands under chance. "
    )
