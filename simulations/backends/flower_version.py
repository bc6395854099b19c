"""The releases of Flower with which this package is known to work."""

from __future__ import annotations

import re
from importlib.metadata import version

FIRST, BEYOND = (1, 41), (1, 43)
"""As in pyproject.toml; every release in between has passed the tests."""


def check_flower(found: str | None = None) -> None:
    """Refuse a Flower that nobody has tried; `found` is the installed version, "1.42.0".

    Raises:
        RuntimeError: what is installed, what is known, and what to do.
    """
    found = version("flwr") if found is None else found
    major, minor = re.findall(r"\d+", found)[:2]
    if not FIRST <= (int(major), int(minor)) < BEYOND:
        known = ">={}.{},<{}.{}".format(*FIRST, *BEYOND)
        raise RuntimeError(
            f"flwr {found} is installed, and simulations are known to work with flwr{known} alone: messages are built "
            f"with parts of Flower that move between releases. Install it (pip install 'flwr[simulation]{known}')"
        )
