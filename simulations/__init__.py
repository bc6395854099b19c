"""Everything that runs: experiments, the Flower apps, the stages of a run, the command line."""

import os

from fl_privacy.simulations.backends.allocator import keep_freed_memory

# Set before Flower or Ray is imported anywhere: both read them once, and both would otherwise call home.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

keep_freed_memory()
