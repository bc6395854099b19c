"""Everything that runs: experiments, federations, their attacks and reports, the command line.

    from fl_privacy.simulations import load_experiment, simulate

    result = simulate(load_experiment("quickstart", ["attack.iterations=800"]), backend="local")

What is named here is loaded when it is first used, and importing this changes nothing in the process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_privacy.simulations.config.load import configure as configure
    from fl_privacy.simulations.config.load import load_experiment as load_experiment
    from fl_privacy.simulations.config.load import reconfigure as reconfigure
    from fl_privacy.simulations.report.result import Result as Result
    from fl_privacy.simulations.run.again import attack_again as attack_again
    from fl_privacy.simulations.run.again import reopen as reopen
    from fl_privacy.simulations.run.pipeline import simulate as simulate

_DOOR = {
    "Result": "report.result",
    "attack_again": "run.again",
    "configure": "config.load",
    "load_experiment": "config.load",
    "reconfigure": "config.load",
    "reopen": "run.again",
    "simulate": "run.pipeline",
}

__all__ = ["Result", "attack_again", "configure", "load_experiment", "reconfigure", "reopen", "simulate"]


def __getattr__(name: str) -> object:
    if name in _DOOR:
        return getattr(import_module(f"{__name__}.{_DOOR[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
