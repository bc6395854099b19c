"""Everything that runs: experiments, federations, their attacks and reports, the command line.

    from fl_privacy.simulations import load_experiment, simulate

    result = simulate(load_experiment("quickstart", ["attack.iterations=800"]), backend="local")

What is named here is loaded when it is first used, and importing this changes nothing in the process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_privacy.simulations.auditing.audit import audit as audit
    from fl_privacy.simulations.auditing.result import Audit as Audit
    from fl_privacy.simulations.backends.local import LocalGrid as LocalGrid
    from fl_privacy.simulations.channels.output.pairs import pair_of as pair_of
    from fl_privacy.simulations.channels.output.pairs import split as server_images
    from fl_privacy.simulations.config.load import configure as configure
    from fl_privacy.simulations.config.load import load_experiment as load_experiment
    from fl_privacy.simulations.config.load import reconfigure as reconfigure
    from fl_privacy.simulations.report.result import Result as Result
    from fl_privacy.simulations.run.again import FinishedRun as FinishedRun
    from fl_privacy.simulations.run.again import attack_again as attack_again
    from fl_privacy.simulations.run.again import open_run as open_run
    from fl_privacy.simulations.run.again import reopen as reopen
    from fl_privacy.simulations.run.pipeline import simulate as simulate
    from fl_privacy.simulations.sweeping.result import SweepResult as SweepResult
    from fl_privacy.simulations.sweeping.run import sweep as sweep

_DOOR = {
    "Audit": ("auditing.result", "Audit"),
    "FinishedRun": ("run.again", "FinishedRun"),
    "LocalGrid": ("backends.local", "LocalGrid"),
    "Result": ("report.result", "Result"),
    "SweepResult": ("sweeping.result", "SweepResult"),
    "attack_again": ("run.again", "attack_again"),
    "audit": ("auditing.audit", "audit"),
    "configure": ("config.load", "configure"),
    "load_experiment": ("config.load", "load_experiment"),
    "open_run": ("run.again", "open_run"),
    "pair_of": ("channels.output.pairs", "pair_of"),
    "reconfigure": ("config.load", "reconfigure"),
    "reopen": ("run.again", "reopen"),
    "server_images": ("channels.output.pairs", "split"),
    "simulate": ("run.pipeline", "simulate"),
    "sweep": ("sweeping.run", "sweep"),
}

__all__ = [
    "Audit",
    "FinishedRun",
    "LocalGrid",
    "Result",
    "SweepResult",
    "attack_again",
    "audit",
    "configure",
    "load_experiment",
    "open_run",
    "pair_of",
    "reconfigure",
    "reopen",
    "server_images",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name in _DOOR:
        module, attribute = _DOOR[name]
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
