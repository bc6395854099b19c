"""What a process is told before anything runs in it. Importing this package changes nothing: running does."""

from __future__ import annotations

import os
import sys
from functools import cache

from fl_privacy.simulations.backends.allocator import keep_freed_memory

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Flower and Ray would otherwise call home."""


@cache
def prepare_process() -> None:
    """Let this process keep the memory it frees, and Flower and Ray call nobody, unless the environment says so."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    telemetry = sys.modules.get("flwr.supercore.telemetry")
    if telemetry is not None:  # it read the environment when it was imported
        telemetry.FLWR_TELEMETRY_ENABLED = os.environ["FLWR_TELEMETRY_ENABLED"]  # type: ignore[attr-defined]
    keep_freed_memory()
