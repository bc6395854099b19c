"""The releases of Flower whose Ray backend this package knows from the inside, which it has to mend (`ray_patches`)."""

from __future__ import annotations

import re
from importlib.metadata import version

FIRST, BEYOND = (1, 41), (1, 43)
"""As in pyproject.toml; every release in between has passed the tests on Ray."""


def check_flower(found: str | None = None) -> None:
    """Refuse a Flower whose Ray backend nobody has tried; `found` is the installed version, "1.42.0".

    Raises:
        RuntimeError: what is installed, what is known, and what to do.
    """
    found = version("flwr") if found is None else found
    major, minor = re.findall(r"\d+", found)[:2]
    if not FIRST <= (int(major), int(minor)) < BEYOND:
        known = ">={}.{},<{}.{}".format(*FIRST, *BEYOND)
        raise RuntimeError(
            f"flwr {found} is installed, and the Ray backend is known to work with flwr{known} alone: it replaces "
            "parts of Flower that move between releases, and would lose clients silently where they have moved. "
            f"Install it (pip install 'flwr[simulation]{known}'), or run with --backend local"
        )
