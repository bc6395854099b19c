"""Everything that speaks Flower: strategies, client apps, mods, the honest-but-curious server.

    from fl_privacy.strategies import HonestButCurious

    strategy = HonestButCurious(FedAvg(), out="observations")

What is named here is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_privacy.strategies.federated.fedsgd import GradientSharing as FedSGD
    from fl_privacy.strategies.guarded import Guarded as Guarded
    from fl_privacy.strategies.inference import PrivateInference as PrivateInference
    from fl_privacy.strategies.mods import defence_mod as defence_mod
    from fl_privacy.strategies.observer import HonestButCurious as HonestButCurious
    from fl_privacy.strategies.split.strategy import SplitLearning as SplitLearning

_DOOR = {
    "FedSGD": ("federated.fedsgd", "GradientSharing"),
    "Guarded": ("guarded", "Guarded"),
    "HonestButCurious": ("observer", "HonestButCurious"),
    "PrivateInference": ("inference", "PrivateInference"),
    "SplitLearning": ("split.strategy", "SplitLearning"),
    "defence_mod": ("mods", "defence_mod"),
}

__all__ = ["FedSGD", "Guarded", "HonestButCurious", "PrivateInference", "SplitLearning", "defence_mod"]


def __getattr__(name: str) -> object:
    if name in _DOOR:
        module, attribute = _DOOR[name]
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
